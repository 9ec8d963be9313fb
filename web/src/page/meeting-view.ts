import { html, nothing, type PropertyValues, type TemplateResult } from "lit";
import * as api from "../api/calls.ts";
import { ApiError, inWords } from "../api/errors.ts";
import { Following, type ViewerEvent } from "../api/following.ts";
import { Chronicle } from "../live/chronicle.ts";
import { Transcript } from "../live/transcript.ts";
import { clock } from "../live/words.ts";
import { happened } from "./happened.ts";
import { complain, tell } from "./notices.ts";
import { ask } from "./question.ts";
import { LIBRARY, meetingAddress, sharedAddress } from "./routes.ts";
import { correct } from "./segment-editor.ts";
import { handOut } from "./share.ts";
import { statusWords } from "./status.ts";
import type { TranscriptLog } from "./transcript-log.ts";
import { View } from "./view.ts";
import "./minutes-card.ts";
import "./task-list.ts";
import "./transcript-log.ts";

/** Rows that come in one piece are drawn at once; more of them than this are drawn from nothing. */
const DRAWN_SINGLY = 100;
const LOOK_AGAIN_MS = 10_000;

/** A meeting that is over or under way: what was said, what it came to, what is to be done. */
class MeetingView extends View {
  static override properties = { meetingId: { type: String }, segment: { type: String }, share: { type: String } };
  declare meetingId: string;
  declare segment: string | null;
  /** The token of somebody else's meeting, which is only read. */
  declare share: string | undefined;

  #meeting: api.Meeting | null = null;
  #problem = "";
  #missing = false;
  #transcript = new Transcript();
  #chronicle = new Chronicle();
  #wasConnected = false;
  #following: Following | null = null;
  #editing = false;
  #healed = 0;
  #revealed = "";
  #later: ReturnType<typeof setTimeout> | undefined;

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#stop();
  }

  protected override willUpdate(changed: PropertyValues): void {
    if (changed.has("meetingId") && this.meetingId) void this.#load();
  }

  get #log(): TranscriptLog | null {
    return this.querySelector("transcript-log");
  }

  #stop(): void {
    this.#following?.stop();
    this.#following = null;
    clearTimeout(this.#later);
  }

  async #load(): Promise<void> {
    this.#stop();
    this.#meeting = null;
    this.#problem = "";
    this.#missing = false;
    this.#transcript = new Transcript();
    this.#chronicle = new Chronicle();
    this.#wasConnected = false;
    this.#log?.reset([]);
    if (await this.#look()) await this.#follow();
  }

  async #look(): Promise<boolean> {
    try {
      this.#meeting = await api.meeting(this.meetingId);
      this.#problem = "";
    } catch (fault) {
      this.#missing = fault instanceof ApiError && (fault.status === 404 || fault.status === 422);
      const missing = this.share ? "This meeting is gone." : "There is no such meeting, or it is not yours.";
      this.#problem = this.#missing ? missing : inWords(fault);
    }
    this.requestUpdate();
    await this.updateComplete;
    // The heading of the view is only there now: who came by a link is led to it, who is elsewhere is left there.
    if (document.activeElement === document.body && !this.segment) this.querySelector<HTMLElement>("h1")?.focus();
    return this.#meeting !== null;
  }

  /** Read what was said and what is said: one stream, from the first word to the end. */
  async #follow(following = this.#newFollowing()): Promise<void> {
    this.#following = following;
    try {
      await following.run();
    } catch (fault) {
      if (this.#following === following) this.#problem = inWords(fault);
    }
    if (this.#following !== following) return;
    await this.#look();
    if (this.#meeting?.healing_segments) {
      // What heals later is told to who comes back.
      this.#later = setTimeout(() => void this.#follow(following.again()), LOOK_AGAIN_MS);
    }
  }

  #newFollowing(): Following {
    return new Following(this.meetingId, (events) => this.#heard(events), () => this.#seen());
  }

  /** The stream of events is there, or gone. */
  #seen(): void {
    const sight = this.#following?.sight;
    if (sight === "waiting") this.#chronicle.add("The connection broke off");
    if (sight === "gave_up") this.#chronicle.add("No connection: trying was given up");
    if (sight === "connected") {
      if (this.#wasConnected) this.#chronicle.add("Connected again");
      this.#wasConnected = true;
    }
    this.requestUpdate();
  }

  #heard(events: ViewerEvent[]): void {
    const log = this.#log;
    const changes = [];
    for (const event of events) {
      if (event.type === "insights") {
        this.querySelector("minutes-card")?.refresh();
        this.querySelector("task-list")?.refresh();
        continue;
      }
      if (event.type === "status") this.#chronicle.state(event.state);
      const change = this.#transcript.apply(event);
      if (change) changes.push(change);
      if (change?.type === "add" && change.row.kind === "gap") this.#chronicle.gap(change.row.gap);
      if (change?.type === "replace" && change.wasDraft && change.row.segment.quality === "final") {
        this.#healed += 1;
        this.#chronicle.healed();
      }
    }
    if (log) {
      if (changes.length > DRAWN_SINGLY) log.reset(this.#transcript.rows);
      else for (const change of changes) log.show(change);
      log.tails = this.#transcript.tails;
    }
    if (changes.length) {
      // They name the times of what was said, which may only have come now.
      this.querySelector("minutes-card")?.requestUpdate();
      this.querySelector("task-list")?.requestUpdate();
    }
    this.requestUpdate();
  }

  protected override updated(): void {
    const log = this.#log;
    if (!log) return;
    log.oncorrect = this.share ? null : (segmentId) => void this.#correct(segmentId);
    log.addressOf ??= (segment) => this.#addressOf(segment.id);
    log.placeholder = this.#following?.sight === "over" ? "Nothing was said." : "";
    if (log.size === 0 && this.#transcript.rows.length) log.reset(this.#transcript.rows);
    if (this.segment && this.#revealed !== this.segment && log.reveal(this.segment)) this.#revealed = this.segment;
    if (!this.segment) this.#revealed = "";
  }

  protected override render() {
    const meeting = this.#meeting;
    if (!meeting) return html`<div class="wide">${this.#problem ? this.#trouble() : this.#loading()}</div>`;
    return html`
      <div class="wide meeting-page">
        ${this.#head(meeting)} ${this.#problem ? this.#trouble() : nothing}
        <div class="columns">
          <section aria-labelledby="transcript-title">
            <div class="title-line">
              <h2 id="transcript-title">Transcript</h2>
              ${this.#sight(meeting)}
            </div>
            <transcript-log ?live=${meeting.status === "live"} tabindex="0" role="region" aria-label="What was said"></transcript-log>
            ${happened(this.#chronicle.happenings)}
          </section>
          <div class="side">
            <minutes-card .meetingId=${meeting.id} .timeOf=${this.#timeOf} .share=${this.share}></minutes-card>
            ${this.share
              ? nothing
              : html`<task-list .meetingId=${meeting.id} .timeOf=${this.#timeOf}></task-list>`}
            ${this.#exports(meeting)}
          </div>
        </div>
      </div>
    `;
  }

  #addressOf = (segmentId: string) =>
    this.share ? sharedAddress(this.meetingId, this.share, segmentId) : meetingAddress(this.meetingId, segmentId);

  #timeOf = (segmentId: string): number | null => {
    const row = this.#transcript.rows.find((one) => one.kind === "segment" && one.segment.id === segmentId);
    return row?.start ?? null;
  };

  #loading(): TemplateResult {
    return html`<h1 tabindex="-1" class="visually-hidden">Meeting</h1>
      <div class="card skeleton" role="status" aria-label="The meeting is being loaded"></div>`;
  }

  #trouble(): TemplateResult {
    return html`
      ${this.#meeting ? nothing : html`<h1 tabindex="-1">Meeting</h1>`}
      <div class="card problem-card" role="alert">
        <p>${this.#problem}</p>
        ${this.#missing
          ? this.share
            ? nothing
            : html`<a class="button" href=${LIBRARY}>Library</a>`
          : html`<button @click=${() => this.#load()}>Try again</button>`}
      </div>
    `;
  }

  #head(meeting: api.Meeting): TemplateResult {
    const { words, tone } = statusWords(meeting);
    const when = new Date(meeting.started_at ?? meeting.created_at);
    return html`
      <div class="title-line">
        ${this.#editing
          ? html`<form class="rename" @submit=${this.#rename}>
              <label for="new-title" class="visually-hidden">Title</label>
              <input id="new-title" name="title" required maxlength="200" .value=${meeting.title} />
              <button class="primary">Save</button>
              <button type="button" @click=${() => this.#edit(false)}>Cancel</button>
            </form>`
          : html`<h1 tabindex="-1">${meeting.title}</h1>
              ${this.share ? nothing : this.#actions(meeting)}`}
      </div>
      <p class="facts">
        <span class="status" data-tone=${tone}>${words}</span>
        <time datetime=${when.toISOString()}
          >${when.toLocaleString(undefined, { dateStyle: "full", timeStyle: "short" })}</time
        >
        ${meeting.audio_seconds ? html`<span>${clock(meeting.audio_seconds)}</span>` : nothing}
        <span>${meeting.segments} segments</span>
        ${this.#healed ? html`<span>${this.#healed} healed</span>` : nothing}
      </p>
    `;
  }

  #actions(meeting: api.Meeting): TemplateResult {
    return html`
      <div class="actions">
        <button @click=${() => this.#share(meeting)}>Share</button>
        <button @click=${() => this.#edit(true)}>Rename</button>
        <button class="danger" @click=${() => this.#delete()}>Delete</button>
      </div>
    `;
  }

  /** Whether what is shown is what there is. */
  #sight(meeting: api.Meeting): TemplateResult {
    const sight = this.#following?.sight ?? "connecting";
    const isLive = meeting.status === "live" || meeting.status === "processing";
    const words = {
      connecting: "Loading…",
      connected: isLive ? "Following live" : "",
      waiting: "Reconnecting… what is shown may be old",
      gave_up: "No connection: what is shown may be old",
      over: "",
    }[sight];
    const tone = sight === "connected" ? "good" : sight === "connecting" ? "busy" : "warn";
    return html`
      <span class="sight" role="status">
        ${words ? html`<span class="dot" data-tone=${tone}></span> ${words}` : nothing}
      </span>
      ${sight === "gave_up" ? html`<button @click=${() => this.#following?.retry()}>Try again</button>` : nothing}
    `;
  }

  #exports(meeting: api.Meeting): TemplateResult {
    return html`
      <section class="card" aria-labelledby="exports-title">
        <h2 id="exports-title">Export</h2>
        <div class="actions">
          ${api.EXPORTS.map(
            (format) => html`<button @click=${() => this.#export(meeting, format)}>${format.toUpperCase()}</button>`,
          )}
        </div>
      </section>
    `;
  }

  async #export(meeting: api.Meeting, format: (typeof api.EXPORTS)[number]): Promise<void> {
    try {
      tell(`Saved as ${await api.download(meeting, format)}.`);
    } catch (fault) {
      complain(inWords(fault));
    }
  }

  async #share(meeting: api.Meeting): Promise<void> {
    try {
      await handOut(await api.share(meeting));
    } catch (fault) {
      complain(inWords(fault));
    }
  }

  async #correct(segmentId: string): Promise<void> {
    const segment = this.#transcript.segment(segmentId);
    const correction = segment && (await correct(segment));
    if (!segment || !correction || !this.#meeting) return;
    const { text, speaker, everywhere } = correction;
    try {
      const own = { ...(text !== undefined ? { text } : {}), ...(speaker !== undefined && !everywhere ? { speaker } : {}) };
      if (Object.keys(own).length) {
        const changed = await api.correct(this.meetingId, segment, own);
        this.#heard([{ ...changed, type: "revised" }]);
      }
      if (speaker && everywhere) {
        this.#meeting = await api.renameSpeaker(await api.meeting(this.meetingId), segment.speaker, speaker);
        // Every row of that speaker is another now: the stream tells them, if it has not ended.
        const following = this.#following;
        if (following?.sight === "over") void this.#follow(following.again());
      }
      tell("Corrected. The minutes follow in a moment.");
    } catch (fault) {
      const isOld = fault instanceof ApiError && fault.status === 412;
      complain(isOld ? "It was changed meanwhile. Here is the newest; try again." : inWords(fault));
      if (isOld) await this.#load();
    }
    this.querySelector<HTMLElement>(".row.target")?.focus();
  }

  #edit(editing: boolean): void {
    this.#editing = editing;
    this.requestUpdate();
    void this.updateComplete.then(() => this.querySelector<HTMLElement>(editing ? "#new-title" : "h1")?.focus());
  }

  #rename = async (submitted: SubmitEvent) => {
    submitted.preventDefault();
    const title = String(new FormData(submitted.target as HTMLFormElement).get("title") ?? "").trim();
    if (!title || !this.#meeting) return;
    try {
      this.#meeting = await api.rename(this.#meeting, title);
      this.#edit(false);
      tell("Renamed.");
    } catch (fault) {
      if (fault instanceof ApiError && fault.status === 412) {
        await this.#look();
        complain("Somebody changed the meeting meanwhile. Here is the newest; save again to replace it.");
      } else complain(inWords(fault));
    }
  };

  async #delete(): Promise<void> {
    const meeting = this.#meeting!;
    const sure = await ask(
      `Delete “${meeting.title}”?`,
      `Its transcript of ${meeting.segments} segments, minutes and tasks go with it. This cannot be undone.`,
      "Delete for good",
    );
    if (!sure) return;
    try {
      await this.#look();
      if (this.#meeting) await api.remove(this.#meeting);
      this.#stop();
      location.hash = LIBRARY;
      tell("Deleted.");
    } catch (fault) {
      complain(inWords(fault));
    }
  }
}

customElements.define("meeting-view", MeetingView);
