import { html, nothing, type TemplateResult } from "lit";
import { job } from "../api/calls.ts";
import { ApiError, inWords } from "../api/errors.ts";
import { upload, type Outcome } from "../api/uploading.ts";
import { tell } from "./notices.ts";
import { meetingAddress } from "./routes.ts";
import { View } from "./view.ts";

const ACCEPTED = ".mp3,.wav,.ogg,.webm,.mp4,.m4a";
const LOOK_MS = 1000;

interface Item {
  file: File;
  /** 0 to 1, of the stage. */
  share: number;
  stage: "sending" | "transcribing" | "done" | "failed" | "stopped";
  words: string;
  meetingId: string;
  stop: AbortController;
}

/** Handing in recordings. What is under way survives a look at other parts of the page, not the end of the page. */
const items: Item[] = [];
const shown = new Set<UploadCard>();

function changed(): void {
  for (const card of shown) card.requestUpdate();
}

class UploadCard extends View {
  #isOver = false;

  override connectedCallback(): void {
    super.connectedCallback();
    shown.add(this);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    shown.delete(this);
  }

  protected override render() {
    return html`
      <section class="card upload" data-over=${this.#isOver} aria-labelledby="upload-title"
        @dragover=${this.#over} @dragleave=${this.#out} @drop=${this.#dropped}>
        <h2 id="upload-title">Hand in a recording</h2>
        <p>
          Drop it here, or <label class="button" for="file">choose a file</label>
          <input id="file" class="visually-hidden" type="file" multiple accept=${ACCEPTED} @change=${this.#chosen} />
        </p>
        <p class="hint">mp3, wav, ogg, webm, mp4, m4a. If the network breaks, it goes on where it stopped; after a reload,
          choose the same file again.</p>
        <ul class="uploads" aria-label="Recordings on their way">${items.map((item) => this.#item(item))}</ul>
      </section>
    `;
  }

  #item(item: Item): TemplateResult {
    const percent = Math.round(item.share * 100);
    const moving = item.stage === "sending" || item.stage === "transcribing";
    return html`
      <li>
        <span class="name">${item.file.name}</span>
        ${moving
          ? html`<progress max="100" .value=${percent} aria-label=${`${item.file.name}: ${item.stage}`}></progress>
              <span>${item.stage === "sending" ? "Sent" : "Transcribed"} ${percent} %</span>`
          : nothing}
        <span class="words" role="status">${item.words}</span>
        ${item.meetingId && item.stage !== "failed"
          ? html`<a href=${meetingAddress(item.meetingId)}>Open</a>`
          : nothing}
        ${item.stage === "sending"
          ? html`<button class="plain" @click=${() => item.stop.abort()}>Stop</button>`
          : nothing}
        ${item.stage === "failed" || item.stage === "stopped"
          ? html`<button class="plain" @click=${() => void this.#send(item)}>Try again</button>`
          : nothing}
      </li>
    `;
  }

  #over = (event: DragEvent) => {
    event.preventDefault();
    this.#isOver = true;
    this.requestUpdate();
  };

  #out = () => {
    this.#isOver = false;
    this.requestUpdate();
  };

  #dropped = (event: DragEvent) => {
    event.preventDefault();
    this.#out();
    this.#take([...(event.dataTransfer?.files ?? [])]);
  };

  #chosen = (event: Event) => {
    const input = event.target as HTMLInputElement;
    this.#take([...(input.files ?? [])]);
    input.value = "";
  };

  #take(files: File[]): void {
    for (const file of files) {
      const item: Item = { file, share: 0, stage: "sending", words: "", meetingId: "", stop: new AbortController() };
      items.unshift(item);
      void this.#send(item);
    }
  }

  async #send(item: Item): Promise<void> {
    Object.assign(item, { stage: "sending", words: "", stop: new AbortController() });
    changed();
    try {
      const outcome = await upload(
        item.file,
        item.file.name.replace(/\.[^.]+$/, "").slice(0, 200),
        ({ sent, total, waiting }) => {
          Object.assign(item, { share: total ? sent / total : 1, words: waiting });
          changed();
        },
        item.stop.signal,
      );
      await this.#watch(item, outcome);
    } catch (fault) {
      if (item.stop.signal.aborted) Object.assign(item, { stage: "stopped", words: "Stopped. What was sent is kept for a day." });
      else Object.assign(item, { stage: "failed", words: inWords(fault) });
    }
    changed();
    this.dispatchEvent(new Event("uploaded"));
  }

  async #watch(item: Item, { jobId, meetingId }: Outcome): Promise<void> {
    Object.assign(item, { stage: "transcribing", share: 0, meetingId });
    changed();
    this.dispatchEvent(new Event("uploaded"));
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      const now = await job(jobId).catch((fault: unknown) => {
        // Not being able to look does not change what happens there.
        if (fault instanceof ApiError && fault.status < 500 && fault.status !== 429) throw fault;
        return null;
      });
      if (!now) continue;
      item.share = now.progress;
      if (now.status === "completed") {
        Object.assign(item, { stage: "done", words: "Transcribed." });
        tell(`${item.file.name} is transcribed.`);
        return;
      }
      if (now.status === "failed" || now.status === "dead") {
        Object.assign(item, { stage: "failed", words: now.error ?? "It could not be transcribed." });
        return;
      }
      changed();
    }
  }
}

customElements.define("upload-card", UploadCard);
