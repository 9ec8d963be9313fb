import { html, type TemplateResult } from "lit";
import { visit } from "../api/calls.ts";
import { account, logins, signOut } from "../api/login.ts";
import { clock } from "../live/words.ts";
import { desk } from "./desk.ts";
import { apply, choose, display } from "./display.ts";
import { LIBRARY, LIVE, route } from "./routes.ts";
import { View } from "./view.ts";
import "./library-view.ts";
import "./live-view.ts";
import "./meeting-view.ts";
import "./notices.ts";
import "./sign-in.ts";

const TITLES = { library: "Library", live: "Live", meeting: "Meeting", shared: "Shared meeting" };

/** The frame of the page: where you are, who you are, and what is being recorded. */
class Page extends View {
  #route = route();
  #online = navigator.onLine;

  override connectedCallback(): void {
    super.connectedCallback();
    apply();
    window.addEventListener("hashchange", () => this.#go());
    for (const change of ["online", "offline"]) {
      window.addEventListener(change, () => {
        this.#online = navigator.onLine;
        this.requestUpdate();
      });
    }
    logins.addEventListener("change", () => {
      if (account()) void this.#resume();
      else void desk.current?.leave();
      this.requestUpdate();
    });
    desk.listen(() => this.requestUpdate());
    // While audio waits that nobody else has, leaving deserves a question.
    window.addEventListener("beforeunload", (leaving) => {
      if (desk.isRecording && !desk.current!.record.finishing && desk.current!.isAtRisk) leaving.preventDefault();
    });
    void this.#resume();
  }

  /** Go on with what a page that was closed or crashed has left, unless another tab has it. */
  async #resume(): Promise<void> {
    await desk.look();
    const left = desk.unfinished.find((one) => !one.elsewhere);
    if (!left || desk.isRecording || Date.now() - left.record.savedAt > RESUME_WITHIN_MS) return;
    location.hash = LIVE;
    await desk.resume(left.record.id);
  }

  #go(): void {
    this.#route = route();
    this.requestUpdate();
    // A screen reader learns of the new view as of a new page.
    void this.updateComplete.then(() => {
      const heading = this.querySelector<HTMLElement>("main h1");
      if (!("segment" in this.#route && this.#route.segment)) heading?.focus();
    });
  }

  protected override render() {
    const who = account();
    const isShared = this.#route.view === "shared";
    visit(this.#route.view === "shared" ? this.#route.token : null);
    document.title = who || isShared ? `${TITLES[this.#route.view]} · Verbatim` : "Verbatim";
    return html`
      <a class="skip" href="#main" @click=${this.#skip}>Skip to the content</a>
      <header class="top">
        <a class="brand" href=${LIBRARY} aria-label="Verbatim, to the library">
          <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
            <rect width="32" height="32" rx="8" />
            <path d="M8 13v6M13 9v14M18 12v8M23 14v4" />
          </svg>
          Verbatim
        </a>
        ${who ? this.#navigation() : ""}
        <div class="who">
          <button class="plain" @click=${this.#showDisplay} aria-haspopup="dialog">Display</button>
          ${who
            ? html`<span class="name">${who.username}</span>
                <button class="plain" @click=${() => this.#leave()}>Sign out</button>`
            : ""}
        </div>
      </header>
      ${this.#online
        ? ""
        : html`<p class="offline" role="status">You are offline. What is recorded is kept in this browser.</p>`}
      <main id="main" tabindex="-1">${who || isShared ? this.#view() : html`<sign-in></sign-in>`}</main>
      <short-notices></short-notices>
      ${this.#display()}
    `;
  }

  #navigation(): TemplateResult {
    const current = (view: string) => (this.#route.view === view ? "page" : "false");
    const recording = desk.isRecording ? desk.current! : null;
    return html`
      <nav aria-label="Main">
        <a href=${LIBRARY} aria-current=${current("library")}>Library</a>
        <a href=${LIVE} aria-current=${current("live")}>
          ${recording
            ? html`<span class="dot" data-tone=${recording.words.tone}></span> Live ${clock(recording.secondsRecorded)}`
            : "New meeting"}
        </a>
      </nav>
    `;
  }

  #view(): TemplateResult {
    switch (this.#route.view) {
      case "live":
        return html`<live-view></live-view>`;
      case "meeting":
        return html`<meeting-view .meetingId=${this.#route.id} .segment=${this.#route.segment}></meeting-view>`;
      case "shared":
        return html`<meeting-view .meetingId=${this.#route.id} .segment=${this.#route.segment}
          .share=${this.#route.token}></meeting-view>`;
      default:
        return html`<library-view></library-view>`;
    }
  }

  #display(): TemplateResult {
    const { theme, contrast, size } = display();
    const chosen = (change: Parameters<typeof choose>[0]) => {
      choose(change);
      this.requestUpdate();
    };
    const radio = (name: "theme" | "contrast", value: string, label: string, now: string) => html`
      <label class="choice">
        <input type="radio" name=${name} value=${value} .checked=${now === value}
          @change=${() => chosen({ [name]: value })} />
        ${label}
      </label>
    `;
    return html`
      <dialog id="display" aria-labelledby="display-title">
        <form method="dialog">
          <h2 id="display-title">Display</h2>
          <fieldset>
            <legend>Theme</legend>
            ${radio("theme", "auto", "As the system", theme)} ${radio("theme", "light", "Light", theme)}
            ${radio("theme", "dark", "Dark", theme)}
          </fieldset>
          <fieldset>
            <legend>Contrast</legend>
            ${radio("contrast", "normal", "Normal", contrast)} ${radio("contrast", "high", "High", contrast)}
          </fieldset>
          <label for="size">Size of captions: ${size} %</label>
          <input id="size" type="range" min="80" max="250" step="10" .value=${String(size)}
            @input=${(event: Event) => chosen({ size: Number((event.target as HTMLInputElement).value) })} />
          <h3>Keys in a live meeting</h3>
          <dl class="keys">
            <dt><kbd>Alt</kbd>+<kbd>P</kbd></dt>
            <dd>pause, go on</dd>
            <dt><kbd>Alt</kbd>+<kbd>J</kbd></dt>
            <dd>jump to what is said now</dd>
          </dl>
          <button class="primary">Done</button>
        </form>
      </dialog>
    `;
  }

  #skip = (event: Event) => {
    event.preventDefault();
    this.querySelector<HTMLElement>("#main")?.focus();
  };

  #showDisplay = () => this.querySelector<HTMLDialogElement>("#display")?.showModal();

  async #leave(): Promise<void> {
    if (desk.isRecording && !confirm("A meeting is being recorded. Sign out and leave it unfinished?")) return;
    await desk.current?.leave();
    desk.clear();
    await signOut();
  }
}

/** What was left longer ago is offered, not gone on with: nobody expects the microphone to open the next day. */
const RESUME_WITHIN_MS = 10 * 60_000;

customElements.define("verbatim-page", Page);
