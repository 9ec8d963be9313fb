/** A question that wants a yes before something is gone for good. */

import { html, render } from "lit";

/** Ask; true for yes. Escape and a click beside it are no. */
export async function ask(title: string, text: string, yes: string): Promise<boolean> {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "question-title");
  dialog.setAttribute("aria-describedby", "question-text");
  render(
    html`
      <form method="dialog">
        <h2 id="question-title">${title}</h2>
        <p id="question-text">${text}</p>
        <div class="actions">
          <button value="no" autofocus>Cancel</button>
          <button value="yes" class="danger">${yes}</button>
        </div>
      </form>
    `,
    dialog,
  );
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
  return dialog.returnValue === "yes";
}
