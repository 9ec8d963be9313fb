import { html, nothing, type PropertyValues, type TemplateResult } from "lit";
import { askInsights, insights, type Insights, type Point } from "../api/calls.ts";
import { ApiError, inWords } from "../api/errors.ts";
import { clock } from "../live/words.ts";
import { complain, tell } from "./notices.ts";
import { meetingAddress, sharedAddress } from "./routes.ts";
import { View } from "./view.ts";

const LOOK_MS = 2000;

/** What a meeting came to: summary, key points, decisions, each with where it was said. */
class MinutesCard extends View {
  static override properties = { meetingId: { type: String }, timeOf: { attribute: false }, share: { type: String } };
  declare meetingId: string;
  /** The token of somebody else's meeting, which is only read. */
  declare share: string | undefined;
  declare timeOf: (segmentId: string) => number | null;

  #minutes: Insights | null = null;
  #problem = "";
  #timer: ReturnType<typeof setTimeout> | undefined;

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    clearTimeout(this.#timer);
  }

  protected override willUpdate(changed: PropertyValues): void {
    if (changed.has("meetingId") && this.meetingId) this.refresh();
  }

  refresh(): void {
    clearTimeout(this.#timer);
    void this.#load();
  }

  async #load(): Promise<void> {
    try {
      this.#minutes = await insights(this.meetingId);
      this.#problem = "";
    } catch (fault) {
      const isMissing = fault instanceof ApiError && fault.status === 404;
      this.#problem = isMissing ? "" : inWords(fault);
      if (isMissing) this.#minutes = null;
    }
    if (this.#minutes?.status === "pending" && this.isConnected) {
      this.#timer = setTimeout(() => this.refresh(), LOOK_MS);
    }
    this.requestUpdate();
  }

  protected override render() {
    const minutes = this.#minutes;
    return html`
      <section class="card" aria-labelledby="minutes-title">
        <div class="title-line">
          <h2 id="minutes-title">Minutes</h2>
          ${minutes?.quality === "draft" ? html`<span class="mark">draft</span>` : nothing}
        </div>
        ${this.#problem
          ? html`<p class="problem" role="alert">${this.#problem}</p>
              <button @click=${() => this.refresh()}>Try again</button>`
          : this.#body(minutes)}
      </section>
    `;
  }

  #body(minutes: Insights | null): TemplateResult {
    if (!minutes) return html`<p class="hint">They are made when the meeting is over.</p>`;
    if (minutes.status === "pending") return html`<p class="hint" role="status">The minutes are being written…</p>`;
    if (minutes.status === "failed") {
      return html`<p>The minutes could not be written.</p>
        ${this.#again("")}`;
    }
    return html`
      ${minutes.summary ? html`<p>${minutes.summary}</p>` : html`<p class="hint">There was too little to sum up.</p>`}
      ${this.#points("Decisions", minutes.decisions)} ${this.#points("Key points", minutes.key_points)}
      ${this.#again("plain")}
    `;
  }

  #again(look: string): TemplateResult | typeof nothing {
    return this.share ? nothing : html`<button class=${look} @click=${this.#ask}>Write them again</button>`;
  }

  #points(title: string, points: Point[]): TemplateResult | typeof nothing {
    if (!points.length) return nothing;
    return html`
      <h3>${title}</h3>
      <ul class="points">
        ${points.map((point) => html`<li>${point.text} ${this.#source(point.segment_ids[0])}</li>`)}
      </ul>
    `;
  }

  #addressOf(segmentId: string): string {
    return this.share ? sharedAddress(this.meetingId, this.share, segmentId) : meetingAddress(this.meetingId, segmentId);
  }

  #source(segmentId: string | undefined): TemplateResult | typeof nothing {
    const start = segmentId ? this.timeOf(segmentId) : null;
    if (!segmentId || start === null) return nothing;
    return html`<a class="source" href=${this.#addressOf(segmentId)} aria-label=${`Said at ${clock(start)}`}
      >${clock(start)}</a
    >`;
  }

  #ask = async () => {
    try {
      await askInsights(this.meetingId);
      tell("The minutes are being written again.");
      this.#timer = setTimeout(() => this.refresh(), LOOK_MS);
    } catch (fault) {
      complain(inWords(fault));
    }
  };
}

customElements.define("minutes-card", MinutesCard);

declare global {
  interface HTMLElementTagNameMap {
    "minutes-card": MinutesCard;
    "task-list": View & { refresh(): void };
    "transcript-log": import("./transcript-log.ts").TranscriptLog;
  }
}
