import { html, nothing, type TemplateResult } from "lit";
import type { Happening } from "../live/chronicle.ts";

/** The line of what happened on the way; nothing while nothing has. */
export function happened(happenings: readonly Happening[]): TemplateResult | typeof nothing {
  if (!happenings.length) return nothing;
  return html`
    <details class="happened">
      <summary>What happened on the way (${happenings.length})</summary>
      <ul>
        ${happenings.map(({ at, text }) => html`<li><time>${at.toLocaleTimeString()}</time> ${text}</li>`)}
      </ul>
    </details>
  `;
}
