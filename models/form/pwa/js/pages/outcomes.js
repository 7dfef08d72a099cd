// What my verdicts did: the thanks that keeps people answering.

import { button, h, icon } from "../dom.js";
import { ask, NoAnswer } from "../api.js";
import { chip, head } from "../frame.js";
import { changed, state } from "../state.js";
import { language, t, when } from "../texts.js";
import { satisfaction } from "./ask.js";
import { faultText, verdictText } from "./machine.js";

export const live = true;
export const title = () => t("outcomes");
let older = { list: [], more: true, problem: "" };

export function model() {
  const list = [...(state.boot?.outcomes ?? []), ...older.list];
  const once = list.filter((each, i) => list.findIndex((other) => other.annotation_id === each.annotation_id) === i);
  return { ...older, list: once, ask: state.boot?.satisfaction ?? null };
}

async function load(before) {
  try {
    const { status, said } = await ask("GET", `/api/form/history?${new URLSearchParams({ lang: language, limit: 50, before })}`);
    if (status !== 200) throw new NoAnswer(String(status));
    older = { list: [...older.list, ...said.outcomes], more: said.more, problem: "" };
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    older = { ...older, problem: t("needs_network") };
  }
  changed();
}

const KIND = { learned: "good", accepted: "good", held: "wait", refused: "bad", kept_out: "idle", waiting: "wait" };

function row(each) {
  return h("li", { class: "card", "data-outcome": each.outcome },
    h("div", { class: "row" }, h("span", { class: "grow" }, h("strong", {}, each.fault ? faultText(each.fault) : verdictText(each.verdict)),
      h("span", { class: "soft" }, `${each.asset} · ${when(each.made_at)}`)), chip(KIND[each.outcome] ?? "idle", t(`outcome_${each.outcome}`))),
    h("p", {}, each.text),
    each.suppressed ? h("p", { class: "soft" }, icon("bell_off"), t("suppressed_here")) : null);
}

export function view({ list, more, problem, ask: question }) {
  const learned = list.filter((each) => each.outcome === "learned").length;
  return [
    head(t("outcomes"), { back: "/form/more", under: learned ? t("n_learned", { n: learned }) : t("outcomes_under") }),
    question ? satisfaction(question) : null,
    list.length ? h("ul", { class: "list" }, list.map(row)) : h("p", { class: "empty" }, t("no_outcomes")),
    problem ? h("p", { class: "problem", role: "alert" }, problem) : null,
    list.length && more ? button("wide quiet", () => load(list.at(-1).made_at), t("older")) : null,
  ].filter(Boolean);
}
