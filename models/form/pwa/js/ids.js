// Ids are made here, once for each thing said. getRandomValues also exists without https; randomUUID does not.

function hex(bytes) {
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

function uuid(bytes, version) {
  bytes[6] = (bytes[6] & 0x0f) | (version << 4);
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return hex(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

export function newId() {
  return uuid(crypto.getRandomValues(new Uint8Array(16)), 4);
}

// UUIDv7: for people and joins, never for order, so a wrong clock does no harm.
export function newTraceId(now = Date.now()) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  for (let i = 5, ms = now; i >= 0; i--, ms = Math.floor(ms / 256)) bytes[i] = ms % 256;
  return uuid(bytes, 7);
}

// Needs https (or localhost), as everything that attaches a file does.
export async function sha256(bytes) {
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}
