// What was found: three taps if the person is in a hurry. Everything is kept as a draft on each tap, so nothing here is lost by a
// call, a flat battery or a closed browser. This page is drawn once: nothing that comes in meanwhile moves under a finger.

import { button, h, icon, tiles } from "../dom.js";
import { get, write } from "../db.js";
import { flush } from "../deliver.js";
import { guarded, head } from "../frame.js";
import { newId, newTraceId } from "../ids.js";
import { asThing, HOLD_MS, save } from "../outbox.js";
import { plot } from "../plot.js";
import { alarms, asset, author, hostNow, reload, setting, state } from "../state.js";
import { inWords, t, when } from "../texts.js";
import { attachments } from "./attach.js";
import { verdictText, why } from "./machine.js";

export const live = false;
export const title = (model) => model.subject.asset;

const SPANS = { now: 10, hour: 60, shift: 480, day: 1440 }; // minutes before now, for a report without an alarm

// What is spoken of: an alarm, a question's stretch of time, a machine as it is now, or what was said before.
function subjectOf({ event, question, again, asset: id }) {
  if (event) {
    const alarm = alarms().find((each) => each.event_id === event);
    if (!alarm) return null;
    return { key: event, asset: alarm.asset, event_id: event, trace_id: alarm.trace_id, start: alarm.opened_at, end: alarm.end, alarm };
  }
  if (question) {
    const asked = state.boot?.questions.find((each) => each.question_id === question);
    if (!asked) return null;
    const alarm = asked.event_id && alarms().find((each) => each.event_id === asked.event_id);
    return { key: question, asset: asked.asset, event_id: asked.event_id, trace_id: alarm?.trace_id, start: asked.start, end: asked.end, alarm, asked, answers: question };
  }
  if (again) {
    const thing = state.things.find((each) => each.id === again);
    if (!thing) return null;
    const { asset: id2, event_id, trace_id, start, end } = thing.body;
    const stored = thing.state === "refused" ? thing.body.supersedes : again; // what was refused is not there to be corrected
    return { key: `again-${again}`, asset: id2, event_id, trace_id, start, end, before: thing.body, supersedes: stored };
  }
  return asset(id) ? { key: `report-${id}`, asset: id, event_id: null, report: true } : null;
}

function freshDraft(subject, verdict) {
  const { before } = subject;
  const fields = before
    ? { verdict: before.learn === false ? "skip" : before.verdict, fault: before.fault, severity: before.severity, note: before.note, part: before.part_replaced }
    : { verdict: subject.report ? "fault" : "" };
  return {
    key: subject.key, id: newId(), trace_id: subject.trace_id ?? newTraceId(), asset: subject.asset, event_id: subject.event_id ?? null,
    answers: subject.answers ?? null, supersedes: subject.supersedes ?? null, start: subject.start ?? null, end: subject.end ?? null,
    fields: { fault: "", severity: "", note: "", part: "", span: "now", confidence: "", ...fields, ...(verdict && { verdict }) }, files: [], at: Date.now(),
  };
}

export async function model(params) {
  const subject = subjectOf(params);
  if (!subject) return { subject: { asset: t("not_here") }, missing: true };
  const asked = params.query.get("v");
  const draft = (await get("drafts", subject.key)) ?? freshDraft(subject, asked);
  if (asked) draft.fields.verdict = asked;
  return { subject, draft, short: Boolean(asked), old: draft.at < Date.now() - 1000 };
}

// What is still missing, in words; empty: it can be saved.
function missing({ fields }, name) {
  if (!fields.verdict) return t("say_verdict");
  if (fields.verdict === "fault" && !fields.fault) return t("say_fault");
  return name ? "" : t("say_name");
}

export function interval(draft) {
  if (draft.start && draft.end) return { start: draft.start, end: draft.end };
  const end = hostNow();
  return { start: new Date(end - (SPANS[draft.fields.span] ?? 10) * 60000).toISOString(), end: end.toISOString() };
}

function bodyOf(draft, annotator) {
  const { verdict, fault, severity, note, part, confidence } = draft.fields;
  const isFault = verdict === "fault";
  const body = {
    kind: "annotation", annotation_id: draft.id, trace_id: draft.trace_id, made_at: new Date().toISOString(), asset: draft.asset,
    event_id: draft.event_id, ...interval(draft), verdict: verdict === "skip" ? "unsure" : verdict, learn: verdict !== "skip",
    fault: isFault ? fault : null, severity: (isFault && severity) || null, note: note.trim(), part_replaced: part.trim(), annotator,
    labels_version: state.boot?.labels_version ?? 1, supersedes: draft.supersedes, policy: state.boot?.policy?.version ?? "",
    interval_confidence: confidence === "" ? null : Number(confidence),
    attachments: draft.files.map(({ sha256, media_type, size }) => ({ sha256, media_type, size })),
  };
  return draft.answers ? { ...body, answers: draft.answers } : body;
}

function verdicts(draft, { report }) {
  const codes = report ? ["fault", "unsure"] : ["fault", "false_alarm", "unsure", "skip"];
  const guide = (code) => (code === "skip" ? t("do_not_learn_guide") : inWords(state.boot?.taxonomy?.verdicts.find((each) => each.code === code)?.guide));
  return tiles(t("what_found"), "verdicts", codes.map((code) => ({
    name: "verdict", value: code, checked: draft.fields.verdict === code, picture: code, text: verdictText(code), guide: guide(code),
  })));
}

// The guide of a tile shows when it is chosen; all of them on request.
function faults(draft) {
  const guide = button("quiet inline", () => {
    const all = guide.parentElement.classList.toggle("guided");
    guide.setAttribute("aria-pressed", String(all));
  }, icon("question"), t("guide"));
  guide.setAttribute("aria-pressed", "false");
  return tiles(t("which_fault"), "faults fault-only", termsOf("fault", "faults", draft, true), guide);
}

function termsOf(name, list, draft, pictures = false) {
  return (state.boot?.taxonomy?.[list] ?? []).map((term) => ({
    name, value: term.code, checked: draft.fields[name] === term.code, picture: pictures ? term.code : null,
    text: inWords(term.text, term.code), guide: inWords(term.guide),
  }));
}

const local = (iso) => { const at = new Date(iso); return new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16); };

// When it was: as the alarm says, as one tap says, or exactly.
function times(draft, subject, changed) {
  const { start, end } = interval(draft);
  const pick = (name) => (event) => {
    if (!event.target.value) return;
    const both = { ...interval(draft), [name]: new Date(event.target.value).toISOString() };
    Object.assign(draft, both);
    changed();
  };
  const field = (name, value) => h("label", { class: "field" }, t(name),
    h("input", { type: "datetime-local", name: `at-${name}`, value: local(value), onchange: pick(name) }));
  const sure = tiles(t("how_sure_when"), "by-three", [["1", "saw_it"], ["0.5", "about_then"], ["0", "a_guess"]].map(([value, text]) => ({
    name: "confidence", value, checked: draft.fields.confidence === value, text: t(text),
  })));
  return [
    subject.report ? tiles(t("since_when"), "spans", Object.keys(SPANS).map((value) => ({ name: "span", value, checked: draft.fields.span === value, text: t(`span_${value}`) }))) : null,
    h("details", {}, h("summary", {}, t("exact_time")), h("div", { class: "pair" }, field("start", start), field("end", end)), sure),
  ];
}

// Whoever comes from the alarm's own page with a verdict in hand has seen it there.
function summary(subject, short) {
  const { alarm, asked, before } = subject;
  if (alarm && short) return h("details", { class: "card" }, h("summary", {}, t("alarm_since", { time: when(alarm.opened_at) })), why(alarm), alarm.plot ? plot(alarm.plot) : null);
  return h("div", { class: "card" },
    asked ? h("p", { class: "question" }, asked.text) : null,
    before ? h("p", {}, t("correcting", { what: verdictText(before.verdict) })) : null,
    alarm ? [h("p", { class: "soft" }, t("alarm_since", { time: when(alarm.opened_at) })), why(alarm), alarm.plot ? plot(alarm.plot) : null]
      : h("p", { class: "soft" }, subject.start ? `${when(subject.start)} – ${when(subject.end)}` : t("no_alarm_report")));
}

export function view({ subject, draft, missing: none, old, short }, { go }) {
  const back = none ? "/form/" : `/form/m/${encodeURIComponent(subject.asset)}`;
  if (none) return [head(t("not_here"), { back }), h("p", { class: "empty" }, t("not_here_text"))];
  const problem = h("div", { "aria-live": "assertive" });
  const lacks = h("p", { class: "lacks", id: "lacks" });
  const name = h("input", { type: "text", name: "name", maxlength: "80", autocomplete: "name", value: author() });
  const saveButton = h("button", { class: "wide save", "aria-describedby": "lacks" }, icon("tick"), h("span", {}, t("save")));
  const form = h("form", { class: "verdict", "data-verdict": draft.fields.verdict, onsubmit: submit, oninput: input });
  let writing = Promise.resolve();
  let saved = false;

  function update() {
    form.dataset.verdict = draft.fields.verdict;
    lacks.textContent = missing(draft, author() || name.value.trim());
    saveButton.disabled = saved || Boolean(lacks.textContent);
  }

  function autosave() {
    draft.at = Date.now();
    update();
    const copy = structuredClone(draft);
    writing = writing.then(() => saved || guarded(problem, async () => {
      await write(["drafts"], async ({ drafts }) => { drafts.put(copy); });
      form.dataset.kept = copy.at; // this much is on the disk
      problem.replaceChildren();
    }));
    return writing;
  }

  function input(event) {
    const { name: field, value } = event.target;
    if (field in draft.fields) draft.fields[field] = value;
    if (field === "span") Object.assign(draft, { start: null, end: null });
    if (field in draft.fields) autosave();
    else update();
  }

  async function submit(event) {
    event.preventDefault();
    if (saveButton.disabled) return;
    saved = true; // a glove taps twice
    update();
    await writing;
    const typed = name.value.trim();
    if (!author()) await setting({ name: typed });
    const thing = asThing("annotation", draft.id, bodyOf(draft, author() || typed), { held: Date.now() + HOLD_MS });
    const done = await guarded(problem, async () => (await save(thing, draft.files, draft.key), true));
    if (!done) {
      saved = false;
      update();
      return;
    }
    navigator.storage?.persist?.().then((answer) => { state.persisted = answer; }, () => {}); // Firefox asks the person: never wait for it
    await reload();
    remember();
    go(`/form/saved/${draft.id}`, { replace: true });
  }

  form.append(
    ...[summary(subject, short), verdicts(draft, subject), faults(draft), tiles(t("how_bad"), "by-three fault-only", termsOf("severity", "severities", draft)),
      h("section", { class: "more" }, h("h2", {}, t("if_time")),
        h("label", { class: "field" }, t("note"), h("textarea", { name: "note", rows: "3", maxlength: "2000" }, draft.fields.note)),
        attachments(draft, autosave, problem),
        h("label", { class: "field" }, t("part_replaced"), h("input", { type: "text", name: "part", maxlength: "80", value: draft.fields.part, placeholder: t("part_example") })),
        times(draft, subject, autosave)),
      author() ? null : h("label", { class: "field" }, t("your_name"), name),
      problem, h("div", { class: "bar" }, lacks, saveButton)].filter(Boolean));
  update();
  if (short && draft.fields.verdict === "fault") form.querySelector(".faults").dataset.start = ""; // the next tap is there
  return [head(subject.asset, { back, under: old ? t("draft_of", { time: when(draft.at) }) : t("your_word") }), form];
}

// Asks the browser to send later also with the form closed. Where it can not, the form itself tries again.
async function remember() {
  const worker = await navigator.serviceWorker?.getRegistration?.("/form/");
  await worker?.sync?.register("outbox").catch(() => {});
  flush();
}
