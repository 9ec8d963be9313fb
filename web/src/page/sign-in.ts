import { html } from "lit";
import { inWords } from "../api/errors.ts";
import { register, signIn } from "../api/login.ts";
import { View } from "./view.ts";

/** Signing in, and making an account. */
class SignIn extends View {
  #isNew = false;
  #busy = false;
  #problem = "";

  #submit = async (submitted: SubmitEvent) => {
    submitted.preventDefault();
    const form = new FormData(submitted.target as HTMLFormElement);
    const field = (name: string) => String(form.get(name) ?? "").trim();
    const password = String(form.get("password") ?? "");
    this.#busy = true;
    this.#problem = "";
    this.requestUpdate();
    try {
      if (this.#isNew) await register(field("email"), field("username"), password);
      else await signIn(field("email"), password);
    } catch (fault) {
      this.#problem = inWords(fault);
    }
    this.#busy = false;
    this.requestUpdate();
  };

  #switch = (isNew: boolean) => {
    this.#isNew = isNew;
    this.#problem = "";
    this.requestUpdate();
    void this.updateComplete.then(() => this.querySelector<HTMLElement>("#email")?.focus());
  };

  protected override render() {
    const isNew = this.#isNew;
    return html`
      <div class="welcome">
        <h1>Every word, once.</h1>
        <p class="lead">
          Verbatim writes down what is said in your meetings while it is said, and keeps it: captions, transcript, minutes
          and tasks, on your own machines.
        </p>
        <section class="card" aria-labelledby="sign-in-title">
          <h2 id="sign-in-title">${isNew ? "Make an account" : "Sign in"}</h2>
          <form @submit=${this.#submit} aria-describedby="sign-in-problem">
            <label for="email">Email</label>
            <input id="email" name="email" type="email" autocomplete="email" required maxlength="254" />
            ${isNew
              ? html`<label for="username">User name</label>
                  <input
                    id="username" name="username" autocomplete="username" required minlength="3" maxlength="32"
                    pattern="[A-Za-z0-9][A-Za-z0-9._\\-]{2,31}" aria-describedby="username-hint"
                  />
                  <p class="hint" id="username-hint">3 to 32 letters, digits, dots, hyphens.</p>`
              : ""}
            <label for="password">Password</label>
            <input
              id="password" name="password" type="password" required maxlength="128" minlength=${isNew ? 8 : 1}
              autocomplete=${isNew ? "new-password" : "current-password"}
            />
            <p class="problem" id="sign-in-problem" role="alert">${this.#problem}</p>
            <button class="primary" ?disabled=${this.#busy}>
              ${this.#busy ? "One moment…" : isNew ? "Make account" : "Sign in"}
            </button>
          </form>
          <p class="hint">
            ${isNew ? "You have an account?" : "You have none?"}
            <button class="link" type="button" @click=${() => this.#switch(!isNew)}>
              ${isNew ? "Sign in" : "Make an account"}
            </button>
          </p>
        </section>
      </div>
    `;
  }
}

customElements.define("sign-in", SignIn);
