// What the phone knows: the last bootstrap, what is on its way, settings; and how far it can be trusted right now.

import { ask, NoAnswer } from "./api.js";
import { all, get, keep } from "./db.js";
import { change, stateOf } from "./outbox.js";
import { language } from "./texts.js";

export const state = {
  boot: null, // the last bootstrap that held machines
  bootAt: 0, // when, by the phone's clock
  clockOff: 0, // host's clock minus the phone's, ms
  contact: "unknown", // online, offline, server (it answers, but not well), signin, locked
  things: [],
  drafts: [],
  settings: { language: null, theme: "auto", glove: false, hall: "", name: "" },
  update: null, // a worker that waits to take over
  full: false, // the last write found no room
  persisted: null,
};

const listeners = new Set();

export function subscribe(heard) {
  listeners.add(heard);
}

export function changed() {
  listeners.forEach((heard) => heard());
}

export async function load() {
  const [boot, settings] = await Promise.all([get("kept", "boot"), get("kept", "settings")]);
  if (boot) Object.assign(state, boot);
  Object.assign(state.settings, settings);
  await reload();
}

export async function reload() {
  const [things, drafts] = await Promise.all([all("things"), all("drafts")]);
  state.things = things.sort((a, b) => b.order - a.order);
  // Photos stay on the disk: the list needs only to know of them.
  state.drafts = drafts.map(({ files, ...draft }) => ({ ...draft, nFiles: files?.length ?? 0 }));
  changed();
}

export async function setting(changes) {
  Object.assign(state.settings, changes);
  await keep("settings", { ...state.settings });
  changed();
}

let refreshing = null;

export function refresh() {
  refreshing ??= fetchBootstrap().finally(() => { refreshing = null; });
  return refreshing;
}

async function fetchBootstrap() {
  const query = new URLSearchParams({ lang: language });
  if (state.boot?.taxonomy) query.set("labels_version", state.boot.taxonomy.version);
  try {
    const asked = Date.now();
    const { status, said } = await ask("GET", `/api/form/bootstrap?${query}`);
    if (status === 401) state.contact = said.error?.code === "locked" ? "locked" : "signin";
    else if (status !== 200 || said.v !== 1) state.contact = "server";
    else await take(said, asked);
  } catch (error) {
    if (error instanceof NoAnswer) state.contact = "offline";
    else if (error.name === "QuotaExceededError") state.full = true; // what is on screen is newer than what is kept
    else throw error;
  }
  changed();
}

async function take(said, asked) {
  const taxonomy = said.taxonomy ?? state.boot?.taxonomy ?? null;
  const host = { host: said.host, name: said.name, sign_in: said.sign_in };
  state.clockOff = Date.parse(said.now) - (asked + Date.now()) / 2;
  if (said.sign_in === "enrolled" && (!said.me || said.me.locked)) {
    state.contact = said.me ? "locked" : "signin";
    // Signed out: what is shown is the last that this phone's person may have seen.
    state.boot = { machinesOf: null, assets: [], alarms: [], questions: [], outcomes: [], ...state.boot, ...host, taxonomy };
    return;
  }
  state.contact = "online";
  state.boot = { ...said, taxonomy };
  state.bootAt = Date.now();
  await keep("boot", { boot: state.boot, bootAt: state.bootAt, clockOff: state.clockOff });
  for (const { annotation_id: id, state: where, outcome } of said.outcomes) {
    const thing = state.things.find((each) => each.id === id);
    if (thing?.state === "sent" && where === "stored") await change(id, { state: "stored", outcome });
  }
}

// What the last try to send came to, as a contact.
export function heard(outcome) {
  if (outcome === "sent") {
    state.contact = "online";
    refresh(); // what was said may have changed what there is to see
  }
  else if (["offline", "signin", "server"].includes(outcome)) state.contact = outcome;
  changed();
}

export function author() {
  return state.boot?.me?.person ?? state.settings.name;
}

// The host's time as well as this phone can know it.
export function hostNow() {
  return new Date(Date.now() + state.clockOff);
}

export function asset(id) {
  return state.boot?.assets.find((each) => each.id === id);
}

// Open alarms of a machine, or of all; those that this phone has answered already say so.
export function alarms(assetId = null) {
  const mine = new Set(state.things.filter((thing) => thing.kind === "annotation" && stateOf(thing) !== "refused")
    .map((thing) => thing.body.event_id));
  return (state.boot?.alarms ?? [])
    .filter((alarm) => assetId === null || alarm.asset === assetId)
    .map((alarm) => ({ ...alarm, answered: alarm.answered || mine.has(alarm.event_id) }));
}
