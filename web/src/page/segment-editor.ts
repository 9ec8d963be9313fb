/** Correcting one segment: what was said, and who said it. */

import { html, nothing, render } from "lit";
import { wanted, type Correction } from "../api/correction.ts";
import type { Segment } from "../live/wire.ts";

/** Ask what is to be corrected; null if nothing. */
export async function correct(segment: Segment): Promise<Correction | null> {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "correct-title");
  const heard = segment.heard?.text ?? segment.heard?.speaker ?? null;
  render(
    html`
      <form method="dialog">
        <h2 id="correct-title">Correct</h2>
        <label for="correct-speaker">Who</label>
        <input id="correct-speaker" name="speaker" maxlength="80" autocomplete="off" .value=${segment.speaker ?? ""} />
        <label class="choice">
          <input type="checkbox" name="everywhere" checked /> everywhere in this meeting
        </label>
        <label for="correct-text">Words</label>
        <textarea id="correct-text" name="text" rows="4" maxlength="10000" required .value=${segment.text}></textarea>
        ${heard === null ? nothing : html`<p class="hint">Heard was: ${segment.heard?.text ?? segment.text}</p>`}
        <p class="hint">What you write stays, also when the sound is heard again.</p>
        <div class="actions">
          ${segment.edited?.length ? html`<button value="heard" formnovalidate>As it was heard</button>` : nothing}
          <button value="no" formnovalidate>Cancel</button>
          <button value="yes" class="primary">Save</button>
        </div>
      </form>
    `,
    dialog,
  );
  document.body.append(dialog);
  dialog.showModal();
  dialog.querySelector<HTMLElement>("#correct-text")!.focus();
  // Enter in the name's field saves: the first button of a form would be another.
  dialog.querySelector("#correct-speaker")!.addEventListener("keydown", (event) => {
    if ((event as KeyboardEvent).key !== "Enter") return;
    event.preventDefault();
    dialog.querySelector<HTMLButtonElement>("button[value=yes]")!.click();
  });
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const fields = new FormData(dialog.querySelector("form")!);
  dialog.remove();
  if (dialog.returnValue === "heard") return { text: null, speaker: null, everywhere: false };
  if (dialog.returnValue !== "yes") return null;
  return wanted(segment, String(fields.get("text")).trim(), String(fields.get("speaker")).trim(), fields.has("everywhere"));
}
