// The phone's own store. Whatever `write` has resolved for is on the phone's disk; before that nobody may be told so.
//
//   things   what was said and is on its way: {id, kind, url, body, state, ...}, see outbox.js
//   files    photos and sounds of things, by sha256: {sha256, media_type, size, bytes, of: [ids], state}
//   drafts   what is being filled in: {key, ...}, written on each tap
//   kept     everything else by name: the last bootstrap, settings

const NAME = "pdm-form";
const VERSION = 1;
let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore("things", { keyPath: "id" });
      db.createObjectStore("files", { keyPath: "sha256" });
      db.createObjectStore("drafts", { keyPath: "key" });
      db.createObjectStore("kept");
    };
    request.onsuccess = () => {
      const db = request.result;
      // A newer version in another tab must not wait for this one; this one opens again when it needs to.
      db.onversionchange = () => { db.close(); opening = null; };
      db.onclose = () => { opening = null; };
      resolve(db);
    };
    request.onerror = () => { opening = null; reject(request.error); };
  });
  return opening;
}

function settled(tx) {
  return new Promise((resolve, reject) => {
    tx.oncomplete = () => resolve();
    tx.onabort = () => reject(tx.error ?? new DOMException("aborted", "AbortError"));
  });
}

async function transaction(stores, mode) {
  for (let tries = 0; ; tries++) {
    try {
      return (await open()).transaction(stores, mode, { durability: "strict" });
    } catch (error) {
      if (error.name !== "InvalidStateError" || tries) throw error; // closed by a newer version meanwhile
      opening = null;
    }
  }
}

export function asked(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export async function get(store, key) {
  return asked((await transaction([store], "readonly")).objectStore(store).get(key));
}

export async function all(store) {
  return asked((await transaction([store], "readonly")).objectStore(store).getAll());
}

// One transaction over these stores: all of `work` or nothing of it. `work` gets the stores by name and may only wait for
// their requests. Resolves with what it returns, after the transaction is complete.
export async function write(stores, work) {
  const tx = await transaction(stores, "readwrite");
  const done = settled(tx);
  done.catch(() => {}); // `work` may fail first
  let result;
  try {
    result = await work(Object.fromEntries(stores.map((name) => [name, tx.objectStore(name)])));
  } catch (error) {
    try { tx.abort(); } catch { /* it has ended already */ }
    await done.catch((ended) => { if (ended?.name === "QuotaExceededError") throw ended; });
    throw error;
  }
  await done;
  return result;
}

export function keep(name, value) {
  return write(["kept"], ({ kept }) => { kept.put(value, name); });
}

export async function forgetEverything() {
  if (opening) (await opening).close();
  opening = null;
  await new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase(NAME);
    request.onsuccess = resolve;
    request.onerror = () => reject(request.error);
  });
}
