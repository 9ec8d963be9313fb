import { html, nothing, type TemplateResult } from "lit";
import { meetings, type Filter, type Meeting } from "../api/calls.ts";
import { inWords } from "../api/errors.ts";
import { clock } from "../live/words.ts";
import { LIVE, meetingAddress } from "./routes.ts";
import { STATUS_WORDS, statusWords } from "./status.ts";
import { View } from "./view.ts";
import "./upload-card.ts";

const TYPING_MS = 300;
const REFRESH_MS = 5000;

/** All meetings: search, filters, page after page. */
class LibraryView extends View {
  #filter: Filter = {};
  #items: Meeting[] | null = null;
  #next: string | null = null;
  #problem = "";
  #busy = false;
  #asked = new AbortController();
  #typing: ReturnType<typeof setTimeout> | undefined;
  #refreshing: ReturnType<typeof setInterval> | undefined;
  #found = "";

  override connectedCallback(): void {
    super.connectedCallback();
    void this.#load();
    window.addEventListener("online", this.#again);
    this.#refreshing = setInterval(() => void this.#refresh(), REFRESH_MS);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    window.removeEventListener("online", this.#again);
    clearInterval(this.#refreshing);
    clearTimeout(this.#typing);
    this.#asked.abort();
  }

  get #isFiltered(): boolean {
    return Boolean(this.#filter.q || this.#filter.from || this.#filter.to || this.#filter.status);
  }

  /** Load the first page, or one more. */
  async #load(more = false): Promise<void> {
    this.#asked.abort();
    const asked = (this.#asked = new AbortController());
    this.#busy = true;
    this.#problem = "";
    this.requestUpdate();
    try {
      const cursor = more && this.#next ? { cursor: this.#next } : {};
      const page = await meetings({ ...this.#filter, ...cursor }, asked.signal);
      this.#items = more ? [...(this.#items ?? []), ...page.items] : page.items;
      this.#next = page.next_cursor;
      if (this.#isFiltered) this.#found = `${this.#items.length}${this.#next ? " or more" : ""} found`;
      else this.#found = "";
    } catch (fault) {
      if (asked.signal.aborted) return;
      this.#problem = inWords(fault);
    }
    this.#busy = false;
    this.requestUpdate();
  }

  /** While something is under way, look how far it is. */
  async #refresh(): Promise<void> {
    const moves = this.#items?.some(({ status }) => status === "live" || status === "processing");
    if (!moves || this.#busy || document.hidden || this.#items!.length > 20) return;
    const asked = this.#asked;
    const page = await meetings(this.#filter, asked.signal).catch(() => null);
    if (!page || asked !== this.#asked || asked.signal.aborted) return;
    this.#items = page.items;
    this.#next = page.next_cursor;
    this.requestUpdate();
  }

  #again = () => void this.#load();

  #filtered(change: Filter, afterMs = 0): void {
    this.#filter = { ...this.#filter, ...change };
    clearTimeout(this.#typing);
    this.#typing = setTimeout(this.#again, afterMs);
  }

  protected override render() {
    return html`
      <div class="wide">
        <div class="title-line">
          <h1 tabindex="-1">Library</h1>
          <a class="button primary" href=${LIVE}>New meeting</a>
        </div>
        <search class="filters">
          <div class="grow">
            <label for="q">Search titles and transcripts</label>
            <input id="q" type="search" maxlength="200" placeholder="What was said" @input=${this.#typed} />
          </div>
          <div>
            <label for="from">From</label>
            <input id="from" type="date" @change=${(e: Event) => this.#filtered({ from: valueOf(e) })} />
          </div>
          <div>
            <label for="to">To</label>
            <input id="to" type="date" @change=${(e: Event) => this.#filtered({ to: valueOf(e) })} />
          </div>
          <div>
            <label for="status">Status</label>
            <select id="status" @change=${(e: Event) => this.#filtered({ status: valueOf(e) })}>
              <option value="">Any</option>
              ${Object.entries(STATUS_WORDS).map(([status, words]) => html`<option value=${status}>${words}</option>`)}
            </select>
          </div>
        </search>
        <p class="visually-hidden" role="status">${this.#busy ? "" : this.#found}</p>
        ${this.#list()}
        <upload-card @uploaded=${this.#again}></upload-card>
      </div>
    `;
  }

  #typed = (event: Event) => this.#filtered({ q: valueOf(event) }, TYPING_MS);

  #list(): TemplateResult {
    const items = this.#items;
    return html`
      ${this.#problem
        ? html`<div class="card problem-card" role="alert">
            <p>${this.#problem}</p>
            <button @click=${this.#again}>Try again</button>
          </div>`
        : nothing}
      ${items === null && !this.#problem
        ? html`<ul class="meetings" aria-busy="true" aria-label="Meetings are being loaded">
            ${[1, 2, 3].map(() => html`<li class="card skeleton"></li>`)}
          </ul>`
        : nothing}
      ${items?.length === 0 && !this.#problem ? this.#empty() : nothing}
      ${items?.length
        ? html`<ul class="meetings" aria-label="Meetings" aria-busy=${this.#busy ? "true" : "false"}>
            ${items.map((one) => this.#item(one))}
          </ul>`
        : nothing}
      ${this.#next
        ? html`<button class="more" ?disabled=${this.#busy} @click=${() => this.#load(true)}>More meetings</button>`
        : nothing}
    `;
  }

  #empty(): TemplateResult {
    if (this.#isFiltered) {
      return html`<div class="card nothing"><p>No meeting has these words, dates and status.</p></div>`;
    }
    return html`
      <div class="card nothing">
        <h2>Nothing here yet</h2>
        <p>Start a meeting and speak, or hand in a recording below.</p>
      </div>
    `;
  }

  #item(one: Meeting): TemplateResult {
    const { words, tone } = statusWords(one);
    const when = new Date(one.started_at ?? one.created_at);
    return html`
      <li class="card meeting">
        <div class="grow">
          <h2><a href=${meetingAddress(one.id)}>${marked(one.title, this.#filter.q)}</a></h2>
          <p class="facts">
            <time datetime=${when.toISOString()}
              >${when.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })}</time
            >
            ${one.audio_seconds ? html`<span>${clock(one.audio_seconds)}</span>` : nothing}
          </p>
          ${this.#hits(one)}
        </div>
        <span class="status" data-tone=${tone}>${words}</span>
      </li>
    `;
  }

  #hits(one: Meeting): TemplateResult | typeof nothing {
    const hits = (one.hits ?? []).filter(({ kind }) => kind !== "title");
    if (!hits.length) return nothing;
    return html`
      <ul class="hits" aria-label="Where it was said">
        ${hits.map(
          (hit) => html`
            <li>
              ${hit.segment_id
                ? html`<a class="source" href=${meetingAddress(one.id, hit.segment_id)}>${clock(hit.start ?? 0)}</a>`
                : html`<span class="hint">Minutes</span>`}
              ${hit.speaker ? html`<span class="speaker">${hit.speaker}</span>` : nothing}
              ${hit.snippet.map(({ text, match }) => (match ? html`<mark>${text}</mark>` : text))}
            </li>
          `,
        )}
      </ul>
    `;
  }
}

function valueOf(event: Event): string {
  return (event.target as HTMLInputElement | HTMLSelectElement).value.trim();
}

/** A text with the words of a search marked in it. */
function marked(text: string, words = ""): TemplateResult {
  const wanted = words.split(/\s+/).filter((word) => word.length > 1);
  if (!wanted.length) return html`${text}`;
  const pattern = new RegExp(`(${wanted.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "giu");
  return html`${text.split(pattern).map((part, at) => (at % 2 ? html`<mark>${part}</mark>` : part))}`;
}

customElements.define("library-view", LibraryView);
