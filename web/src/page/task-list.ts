import { html, nothing, type PropertyValues, type TemplateResult } from "lit";
import { live } from "lit/directives/live.js";
import { repeat } from "lit/directives/repeat.js";
import { addTask, changeTask, removeTask, tasks, type Task } from "../api/calls.ts";
import { ApiError, inWords } from "../api/errors.ts";
import { clock } from "../live/words.ts";
import { complain, tell } from "./notices.ts";
import { meetingAddress } from "./routes.ts";
import { View } from "./view.ts";

/** What is to be done after a meeting: who, until when, done, and where it was said. */
class TaskList extends View {
  static override properties = { meetingId: { type: String }, timeOf: { attribute: false } };
  declare meetingId: string;
  declare timeOf: (segmentId: string) => number | null;

  #tasks: Task[] | null = null;
  #problem = "";
  #edited = "";

  protected override willUpdate(changed: PropertyValues): void {
    if (changed.has("meetingId") && this.meetingId) this.refresh();
  }

  refresh(): void {
    void this.#load();
  }

  async #load(): Promise<void> {
    try {
      this.#tasks = await tasks(this.meetingId);
      this.#problem = "";
    } catch (fault) {
      this.#problem = inWords(fault);
    }
    this.requestUpdate();
  }

  protected override render() {
    const found = this.#tasks;
    return html`
      <section class="card" aria-labelledby="tasks-title">
        <h2 id="tasks-title">Tasks</h2>
        ${this.#problem
          ? html`<p class="problem" role="alert">${this.#problem}</p>
              <button @click=${() => this.refresh()}>Try again</button>`
          : nothing}
        ${found === null && !this.#problem ? html`<p class="hint">Loading…</p>` : nothing}
        ${found?.length === 0 ? html`<p class="hint">None. Those that are agreed on in the meeting come by themselves.</p>` : nothing}
        <ul class="tasks">
          ${repeat(
            found ?? [],
            (task) => task.id,
            (task) => html`<li>${this.#edited === task.id ? this.#form(task) : this.#row(task)}</li>`,
          )}
        </ul>
        <form class="add" @submit=${this.#add}>
          <label for="new-task" class="visually-hidden">New task</label>
          <input id="new-task" name="title" required maxlength="200" placeholder="Another task" autocomplete="off" />
          <button>Add</button>
        </form>
      </section>
    `;
  }

  #row(task: Task): TemplateResult {
    // The click ticks the box by itself; `live` lets what the platform says count, also when that has not changed.
    const done = task.status === "done";
    const start = task.source_segment_id ? this.timeOf(task.source_segment_id) : null;
    return html`
      <label class="task" data-done=${done}>
        <input type="checkbox" .checked=${live(done)} @change=${() => this.#change(task, { status: done ? "open" : "done" })} />
        <span>${task.title}</span>
      </label>
      <p class="facts">
        ${task.assignee ? html`<span>${task.assignee}</span>` : nothing}
        ${task.due ? html`<span>by <time datetime=${task.due}>${dayWords(task.due)}</time></span>` : nothing}
        ${start === null
          ? nothing
          : html`<a href=${meetingAddress(this.meetingId, task.source_segment_id!)} aria-label=${`Said at ${clock(start)}`}
              >${clock(start)}</a
            >`}
        <button class="link" aria-label=${`Edit “${task.title}”`} @click=${() => this.#edit(task.id)}>Edit</button>
      </p>
    `;
  }

  #form(task: Task): TemplateResult {
    return html`
      <form class="edit" @submit=${(event: SubmitEvent) => this.#save(event, task)}>
        <label for="task-title">Task</label>
        <input id="task-title" name="title" required maxlength="200" .value=${task.title} />
        <div class="pair">
          <div>
            <label for="task-assignee">Who</label>
            <input id="task-assignee" name="assignee" maxlength="100" .value=${task.assignee ?? ""} />
          </div>
          <div>
            <label for="task-due">Until</label>
            <input id="task-due" name="due" type="date" .value=${task.due ?? ""} />
          </div>
        </div>
        <div class="actions">
          <button class="primary">Save</button>
          <button type="button" @click=${() => this.#edit("")}>Cancel</button>
          <button type="button" class="danger" @click=${() => this.#remove(task)}>Delete</button>
        </div>
      </form>
    `;
  }

  #edit(id: string): void {
    this.#edited = id;
    this.requestUpdate();
    void this.updateComplete.then(() => this.querySelector<HTMLElement>(id ? "#task-title" : "#tasks-title")?.focus());
  }

  #save = async (submitted: SubmitEvent, task: Task) => {
    submitted.preventDefault();
    const form = new FormData(submitted.target as HTMLFormElement);
    const field = (name: string) => String(form.get(name) ?? "").trim();
    const change = { title: field("title"), assignee: field("assignee") || null, due: field("due") || null };
    if (await this.#change(task, change)) this.#edit("");
  };

  async #change(task: Task, change: Parameters<typeof changeTask>[1]): Promise<boolean> {
    try {
      const changed = await changeTask(task, change);
      this.#tasks = (this.#tasks ?? []).map((one) => (one.id === changed.id ? changed : one));
      this.requestUpdate();
      return true;
    } catch (fault) {
      await this.#sorry(fault);
      return false;
    }
  }

  async #remove(task: Task): Promise<void> {
    try {
      await removeTask(task);
      this.#tasks = (this.#tasks ?? []).filter((one) => one.id !== task.id);
      this.#edit("");
      tell("The task is deleted.");
    } catch (fault) {
      await this.#sorry(fault);
    }
  }

  #add = async (submitted: SubmitEvent) => {
    submitted.preventDefault();
    const form = submitted.target as HTMLFormElement;
    const title = String(new FormData(form).get("title") ?? "").trim();
    if (!title) return;
    try {
      this.#tasks = [...(this.#tasks ?? []), await addTask(this.meetingId, title)];
      form.reset();
      this.requestUpdate();
    } catch (fault) {
      complain(inWords(fault));
    }
  };

  async #sorry(fault: unknown): Promise<void> {
    const isOld = fault instanceof ApiError && (fault.status === 412 || fault.status === 404);
    complain(isOld ? "The task was changed meanwhile. Here is the newest; try again." : inWords(fault));
    await this.#load();
  }
}

function dayWords(day: string): string {
  const options: Intl.DateTimeFormatOptions = { day: "numeric", month: "short", timeZone: "UTC" };
  return new Date(`${day}T00:00:00Z`).toLocaleDateString(undefined, options);
}

customElements.define("task-list", TaskList);
