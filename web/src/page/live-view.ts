import { html, nothing, type TemplateResult } from "lit";
import { account } from "../api/login.ts";
import { inWords } from "../api/errors.ts";
import { microphones, type Source } from "../live/capture.ts";
import type { Recording } from "../live/recording.ts";
import type { Change } from "../live/transcript.ts";
import { clock } from "../live/words.ts";
import { desk, remember, remembered } from "./desk.ts";
import { happened } from "./happened.ts";
import { complain } from "./notices.ts";
import { LIBRARY, meetingAddress } from "./routes.ts";
import { ask } from "./question.ts";
import type { TranscriptLog } from "./transcript-log.ts";
import { View } from "./view.ts";
import "./transcript-log.ts";

const SPEAKER = "verbatim.speaker";
const LANGUAGES = { "": "Recognise by itself", en: "English", de: "Deutsch", fr: "Français", es: "Español", it: "Italiano", nl: "Nederlands", pl: "Polski", pt: "Português", ja: "日本語", zh: "中文" }; // prettier-ignore

/** Starting a meeting, and the meeting while it is said. */
class LiveView extends View {
  #microphones: MediaDeviceInfo[] = [];
  #stopListening: () => void = () => {};
  #starting = false;
  #shown: Recording | null = null;

  override connectedCallback(): void {
    super.connectedCallback();
    this.#stopListening = desk.listen((change) => this.#changed(change));
    document.addEventListener("keydown", this.#key);
    navigator.mediaDevices?.addEventListener("devicechange", this.#devices);
    void this.#devices();
    void desk.look();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#stopListening();
    this.#shown = null;
    document.removeEventListener("keydown", this.#key);
    navigator.mediaDevices?.removeEventListener("devicechange", this.#devices);
  }

  get #log(): TranscriptLog | null {
    return this.querySelector("transcript-log");
  }

  #changed(change: Change | null): void {
    const log = this.#log;
    if (log && desk.current && this.#shown === desk.current) {
      if (change) log.show(change);
      log.tails = desk.current.transcript.tails;
    }
    this.requestUpdate();
  }

  protected override updated(): void {
    const log = this.#log;
    const recording = desk.current;
    if (log && recording && this.#shown !== recording) {
      this.#shown = recording;
      log.onfollow = () => this.requestUpdate();
      log.reset(recording.transcript.rows);
      log.tails = recording.transcript.tails;
      log.placeholder = "Speak: the words will be here.";
      void this.#devices();
    }
    const meter = this.querySelector<HTMLMeterElement>("meter");
    // Speech lies between -60 and 0 dBFS.
    if (meter && recording) meter.value = Math.max(0, 1 + (20 * Math.log10(recording.level + 1e-6)) / 60);
  }

  protected override render() {
    const recording = desk.current;
    return recording ? this.#meeting(recording) : this.#setup();
  }

  // Before the meeting

  #setup(): TemplateResult {
    return html`
      <div class="narrow">
        <h1 tabindex="-1">New meeting</h1>
        ${this.#unfinished()}
        <form class="card" @submit=${this.#start}>
          <label for="title">Title</label>
          <input id="title" name="title" maxlength="200" placeholder=${usualTitle()} />
          <label for="speaker">Your name <span class="hint">(beside what you say; may be empty)</span></label>
          <input id="speaker" name="speaker" maxlength="80" .value=${localStorage.getItem(SPEAKER) ?? ""} />
          <div class="pair">
            <div>
              <label for="source">Listen to</label>
              <select id="source" name="source">${this.#sources(remembered().deviceId ?? "")}</select>
            </div>
            <div>
              <label for="language">Language</label>
              <select id="language" name="language">
                ${Object.entries(LANGUAGES).map(([code, name]) => html`<option value=${code}>${name}</option>`)}
              </select>
            </div>
          </div>
          <p class="hint">
            Everybody who is heard should know that it is written down. The sound goes to this server and nowhere else from
            here.
          </p>
          <button class="primary record" ?disabled=${this.#starting}><span class="bullet"></span>Start</button>
        </form>
      </div>
    `;
  }

  #unfinished(): TemplateResult[] {
    return desk.unfinished.map(
      ({ record, elsewhere }) => html`
        <section class="card attention" aria-label="Unfinished meeting">
          <p>
            <strong>${record.title || "A meeting"}</strong>
            ${elsewhere ? "is being recorded in another tab." : "was not finished."}
            ${clock(record.written / 32_000)} so far.
          </p>
          <div class="actions">
            <button class="primary" @click=${() => this.#resume(record.id)}>Continue here</button>
            ${elsewhere ? nothing : html`<button @click=${() => this.#discard(record.id)}>Forget it</button>`}
          </div>
        </section>
      `,
    );
  }

  #sources(chosen: string): TemplateResult {
    const named = this.#microphones.filter((one) => one.deviceId !== "default");
    return html`
      <option value="">Usual microphone</option>
      ${named.map(
        (one, at) => html`
          <option value=${one.deviceId} ?selected=${one.deviceId === chosen}>${one.label || `Microphone ${at + 1}`}</option>
        `,
      )}
      <option value="tab">The sound of a tab…</option>
    `;
  }

  #start = async (submitted: SubmitEvent) => {
    submitted.preventDefault();
    const form = new FormData(submitted.target as HTMLFormElement);
    const field = (name: string) => String(form.get(name) ?? "").trim();
    localStorage.setItem(SPEAKER, field("speaker"));
    this.#starting = true;
    this.requestUpdate();
    const fields = {
      title: field("title") || usualTitle(),
      ...(field("speaker") ? { speaker: field("speaker") } : {}),
      ...(field("language") ? { language: field("language") } : {}),
    };
    try {
      await desk.start(fields, sourceOf(field("source")));
    } catch (fault) {
      complain(inWords(fault));
    }
    this.#starting = false;
    this.requestUpdate();
  };

  #resume = async (id: string) => {
    try {
      await desk.resume(id);
    } catch (fault) {
      complain(inWords(fault));
    }
  };

  #discard = async (id: string) => {
    const sure = await ask("Forget this recording?", "What has reached the server stays in the library; what has not is lost.", "Forget it");
    if (sure) await desk.discard(id);
  };

  // The meeting

  #meeting(recording: Recording): TemplateResult {
    const { tone, title, detail } = recording.words;
    return html`
      <div class="live" data-tone=${tone}>
        <div class="live-head">
          <h1 tabindex="-1">${recording.record.title || "Live meeting"}</h1>
          <div class="standing" data-tone=${tone}>
            <span class="dot" data-tone=${tone}></span>
            <div>
              <strong role="status">${title}</strong>
              <!-- It counts seconds: nothing to be read out again and again. -->
              <span class="detail">${detail}</span>
            </div>
          </div>
        </div>
        ${recording.isOver ? this.#end(recording) : this.#controls(recording)}
        <div class="stage">
          <transcript-log live tabindex="0" role="region" aria-label="Transcript"></transcript-log>
          ${this.#log && !this.#log.following
            ? html`<button class="jump" aria-keyshortcuts="Alt+J" @click=${() => this.#log?.jumpToEnd()}>
                ↓ Jump to live${this.#log.unseen ? ` (${this.#log.unseen} new)` : ""}
              </button>`
            : ""}
        </div>
        ${happened(recording.chronicle.happenings)}
      </div>
    `;
  }

  #controls(recording: Recording): TemplateResult {
    const finishing = recording.record.finishing;
    const phase = recording.phase;
    return html`
      <div class="controls" role="group" aria-label="Recording">
        <span class="elapsed" aria-label="Recorded">${clock(recording.secondsRecorded)}</span>
        <meter min="0" max="1" value="0" aria-label="Level of the microphone"></meter>
        <button ?disabled=${finishing} aria-keyshortcuts="Alt+P" @click=${() => recording.pause(!recording.paused)}>
          ${recording.paused ? "Go on" : "Pause"}
        </button>
        <button class="stop" ?disabled=${finishing} @click=${() => recording.finish()}>
          <span class="square"></span>${finishing ? "Finishing…" : "Stop"}
        </button>
        <label class="device">
          <span class="visually-hidden">Listen to</span>
          <select ?disabled=${finishing} @change=${this.#otherSource}>
            ${this.#sources(recording.source.kind === "tab" ? "tab" : (recording.source.deviceId ?? ""))}
          </select>
        </label>
        ${phase === "waiting" || phase === "gave_up"
          ? html`<button class="primary" @click=${() => recording.retry()}>Try now</button>`
          : ""}
        ${recording.silent && !finishing
          ? html`<button class="primary" @click=${() => recording.listen(recording.source)}>Listen again</button>`
          : ""}
        ${recording.needsGesture
          ? html`<button class="primary" @click=${() => recording.wake()}>Go on listening</button>`
          : ""}
      </div>
    `;
  }

  #end(recording: Recording): TemplateResult {
    const accounts = recording.finished;
    const id = recording.meetingId;
    return html`
      <section class="card accounts" aria-label="Accounts">
        ${accounts
          ? html`<p>
              <strong>${accounts.segments}</strong> segments from <strong>${clock(accounts.audio_seconds)}</strong> of audio.
              ${accounts.gap_seconds
                ? html`<strong>${accounts.gap_seconds.toFixed(1)} s</strong> are missing and marked as gaps.`
                : "Nothing is missing."}
              ${accounts.draft_segments ? html`<strong>${accounts.draft_segments}</strong> are drafts.` : ""}
            </p>`
          : html`<p>${recording.words.detail || recording.words.title}</p>`}
        <div class="actions">
          ${id ? html`<a class="button primary" href=${meetingAddress(id)}>Open the meeting</a>` : ""}
          ${recording.phase === "taken_over" || recording.phase === "refused"
            ? html`<button @click=${() => this.#resume(recording.record.id)}>Continue here</button>`
            : ""}
          <button @click=${() => this.#again()}>New meeting</button>
          <a class="button" href=${LIBRARY}>Library</a>
        </div>
      </section>
    `;
  }

  #again(): void {
    desk.clear();
    this.#shown = null;
    void desk.look();
  }

  #otherSource = async (event: Event) => {
    const source = sourceOf((event.target as HTMLSelectElement).value);
    if (source.kind === "microphone") remember(source.deviceId ?? "");
    await desk.current?.listen(source);
  };

  #devices = async () => {
    this.#microphones = await microphones();
    this.requestUpdate();
  };

  #key = (event: KeyboardEvent) => {
    if (!event.altKey || event.ctrlKey || event.metaKey || !desk.current || !account()) return;
    if (event.code === "KeyP") desk.current.pause(!desk.current.paused);
    else if (event.code === "KeyJ") this.#log?.jumpToEnd();
    else return;
    event.preventDefault();
  };
}

function usualTitle(): string {
  return `Meeting of ${new Date().toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })}`;
}

function sourceOf(value: string): Source {
  if (value === "tab") return { kind: "tab" };
  return value ? { kind: "microphone", deviceId: value } : { kind: "microphone" };
}

customElements.define("live-view", LiveView);
