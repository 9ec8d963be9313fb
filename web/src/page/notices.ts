/** Short words to the person: read out by screen readers, seen by everybody else. */

import { html } from "lit";
import { View } from "./view.ts";

const SHOWN_MS = 6000;

interface Notice {
  text: string;
  isError: boolean;
}

class Notices extends View {
  #notice: Notice | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  say(notice: Notice): void {
    clearTimeout(this.#timer);
    this.#notice = notice;
    this.requestUpdate();
    // An error stays until it is put away: not everybody reads fast.
    if (!notice.isError) this.#timer = setTimeout(() => this.#dismiss(), SHOWN_MS);
  }

  #dismiss = () => {
    this.#notice = null;
    this.requestUpdate();
  };

  protected override render() {
    const notice = this.#notice;
    return html`
      <div role="status">${notice && !notice.isError ? html`<p class="notice">${notice.text}</p>` : ""}</div>
      <div role="alert">
        ${notice?.isError
          ? html`<p class="notice error">
              ${notice.text} <button class="plain" aria-label="Dismiss" @click=${this.#dismiss}>✕</button>
            </p>`
          : ""}
      </div>
    `;
  }
}

customElements.define("short-notices", Notices);

function speak(notice: Notice): void {
  document.querySelector<Notices>("short-notices")?.say(notice);
}

export const tell = (text: string) => speak({ text, isError: false });
export const complain = (text: string) => speak({ text, isError: true });
