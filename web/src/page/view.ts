import { LitElement } from "lit";

/** A part of the page. In the light DOM: one style sheet, and labels and live regions that find each other. */
export class View extends LitElement {
  protected override createRenderRoot(): HTMLElement {
    return this;
  }
}
