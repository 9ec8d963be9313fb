/** How the page looks, by the person's choice, kept in this browser. */

const KEY = "verbatim.display";

export interface Display {
  theme: "auto" | "light" | "dark";
  contrast: "normal" | "high";
  /** Percent. */
  size: number;
}

export function display(): Display {
  const usual: Display = { theme: "auto", contrast: "normal", size: 100 };
  try {
    return { ...usual, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Display>) };
  } catch {
    return usual;
  }
}

export function choose(change: Partial<Display>): Display {
  const chosen = { ...display(), ...change };
  localStorage.setItem(KEY, JSON.stringify(chosen));
  apply(chosen);
  return chosen;
}

export function apply({ theme, contrast, size }: Display = display()): void {
  const root = document.documentElement;
  root.dataset.theme = theme;
  root.dataset.contrast = contrast;
  root.style.setProperty("--caption-scale", String(size / 100));
}
