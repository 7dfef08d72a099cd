import { h, icon, link } from "../dom.js";
import { head } from "../frame.js";
import { author, state } from "../state.js";
import { t } from "../texts.js";

export const live = true;
export const title = () => t("more");

export function model() {
  return { name: state.boot?.me?.name ?? author(), questions: state.boot?.questions.length ?? 0, enrolled: state.boot?.sign_in === "enrolled" };
}

export function view({ name, questions, enrolled }) {
  const entries = [["outcomes", "result", null], ["questions", "question", questions || null], ["settings", "settings", null]];
  if (enrolled) entries.push(["sign-in", "person", null]);
  return [head(t("more"), { under: name }),
    h("ul", { class: "list" }, entries.map(([path, picture, n]) => h("li", {}, link(`/form/${path}`, "card row", icon(picture), h("strong", { class: "grow" }, t(path === "sign-in" ? "signing_in" : path)), n ? h("span", { class: "badge" }, n) : null, icon("next")))))];
}
