/** Handing out a link to a meeting. */

import { html, render } from "lit";
import type { Share } from "../api/calls.ts";

/** Show a link with what it opens and until when; settles when it is put away. */
export async function handOut(share: Share): Promise<void> {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "share-title");
  dialog.setAttribute("aria-describedby", "share-text");
  const link = new URL(share.path, location.href).href;
  const until = new Date(share.expires_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const copy = async (event: Event) => {
    const said = dialog.querySelector("[role=status]")!;
    try {
      await navigator.clipboard.writeText(link);
      said.textContent = "Copied.";
    } catch {
      // Not every browser lets a page write there: then the person does, with what is selected.
      dialog.querySelector<HTMLInputElement>("#share-link")!.select();
      said.textContent = "Press Ctrl+C to copy it.";
    }
    event.preventDefault();
  };
  render(
    html`
      <form method="dialog">
        <h2 id="share-title">Read along</h2>
        <p id="share-text">
          Whoever has this link reads this meeting, also while it is spoken, without an account, until ${until}. They change
          nothing and see nothing else. Deleting the meeting ends it before.
        </p>
        <label for="share-link">Link</label>
        <input id="share-link" readonly .value=${link} @focus=${(e: Event) => (e.target as HTMLInputElement).select()} />
        <p class="hint" role="status"></p>
        <div class="actions">
          <button type="button" class="primary" autofocus @click=${copy}>Copy</button>
          <button>Done</button>
        </div>
      </form>
    `,
    dialog,
  );
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
}
