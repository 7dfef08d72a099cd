// What was said, on its way to the fleet's database. One way only:
//
//   waiting -> sent (the agent keeps it) -> stored (in the fleet's database)      or -> refused, with the reasons
//
// A thing: {id, kind, url, idName, body, state, order, made, tries, next, held, started, problem, reasons, judgement, files}
// `held` and `next` are moments by the phone's clock; if that clock was set back they are too far away to be true.

import { asked, write } from "./db.js";
import { newId } from "./ids.js";

export const HOLD_MS = 10000; // for the undo
export const LONGEST_WAIT_MS = 60000;
const KEEP_MS = 7 * 24 * 3600 * 1000; // what is stored stays visible as long
const KINDS = {
  annotation: { path: "/api/annotations/", idName: "annotation_id" },
  action: { path: "/api/form/actions/", idName: "action_id" },
  satisfaction: { path: "/api/form/satisfaction/", idName: "ask_id" },
  question: { path: "/api/form/questions/", idName: "question_id" },
};

const channel = globalThis.BroadcastChannel ? new BroadcastChannel("pdm-form") : null;
const listeners = new Set();
if (channel) channel.onmessage = (event) => listeners.forEach((heard) => heard(event.data));

// Told of each change in any tab or in the worker: {changed: true} and what the last try came to, {outcome}.
export function onChange(heard) {
  listeners.add(heard);
  return () => listeners.delete(heard);
}

export function tell(news = { changed: true }) {
  channel?.postMessage(news);
  listeners.forEach((heard) => heard(news));
}

export function isDue(moment, now, longest) {
  return !moment || moment <= now || moment - now > longest;
}

export function asThing(kind, id, body, extra = {}) {
  const { path, idName } = KINDS[kind];
  return {
    id, kind, url: path + id, idName, body, state: "waiting", made: Date.now(), tries: 0, next: 0, held: 0, started: false,
    problem: "", reasons: [], judgement: null, files: [], ...extra,
  };
}

// Saves a thing and its files, and ends its draft, in one step. False: this id was saved before (another tab was faster).
export async function save(thing, files = [], draftKey = null) {
  const isNew = await write(["things", "files", "drafts"], async (db) => {
    const known = await asked(db.things.get(thing.id));
    if (!known) {
      const order = (await asked(db.things.getAll())).reduce((highest, each) => Math.max(highest, each.order), 0) + 1;
      db.things.add({ ...thing, order, files: files.map(({ bytes, ...file }) => ({ ...file, state: "waiting" })) });
      for (const file of files) db.files.put(file);
    }
    if (draftKey) db.drafts.delete(draftKey);
    return !known;
  });
  tell();
  return isNew;
}

export async function act(body) {
  const id = newId();
  await save(asThing("action", id, { ...body, at: new Date().toISOString() }));
  return id;
}

// Changes a thing if it is still there.
export async function change(id, changes) {
  await write(["things"], async ({ things }) => {
    const thing = await asked(things.get(id));
    if (thing) things.put({ ...thing, ...(typeof changes === "function" ? changes(thing) : changes) });
  });
  tell();
}

// Takes a thing back that nobody has tried to send yet. Null: too late.
export async function undo(id, draft) {
  const taken = await write(["things", "files", "drafts"], async (db) => {
    const thing = await asked(db.things.get(id));
    if (!thing || thing.started) return null;
    db.things.delete(id);
    const files = [];
    const others = (await asked(db.things.getAll())).flatMap((other) => other.files.map((file) => file.sha256));
    for (const { sha256 } of thing.files) {
      const file = await asked(db.files.get(sha256));
      if (file) files.push(file);
      if (!others.includes(sha256)) db.files.delete(sha256); // the same photo may belong to another one too
    }
    db.drafts.put({ ...draft, files });
    return thing;
  });
  tell();
  return taken;
}

// Sends nothing itself: whoever leaves the "saved" page says that the time for the undo is over.
export async function release(id) {
  await change(id, (thing) => (thing.state === "waiting" ? { held: 0 } : {}));
}

export function counts(things) {
  const found = { waiting: 0, sent: 0, stored: 0, refused: 0 };
  for (const thing of things) found[stateOf(thing)] += 1;
  return found;
}

// An accepted annotation whose photo is still here is not all there yet.
export function stateOf(thing) {
  const open = thing.files.some((file) => file.state === "waiting");
  return (thing.state === "sent" || thing.state === "stored") && open ? "waiting" : thing.state;
}

// Removes what has been stored long enough, and never anything else.
export async function tidy(now = Date.now(), keepMs = KEEP_MS) {
  await write(["things"], async ({ things }) => {
    for (const thing of await asked(things.getAll())) {
      if (stateOf(thing) === "stored" && now - thing.made > keepMs) things.delete(thing.id);
    }
  });
}
