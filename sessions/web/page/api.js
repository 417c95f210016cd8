/**
 * Requests to the server.
 * Rule: every address is relative to the page, so that it works below any path; the token goes with each request, and
 * where it is refused the user is asked for one and the request is made again.
 */

const KEY = "warmline.token";
const PATIENCE = 60_000;

/** What the server refused, or that it cannot be reached (`status` 0). `message` says what to do. */
export class Problem extends Error {
  constructor(status, message, after = 0) {
    super(message);
    this.status = status;
    this.after = after;
  }

  /** Whether the same request may succeed in a while. */
  get isPassing() {
    return this.status === 0 || this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

export const token = {
  get: () => localStorage.getItem(KEY) ?? "",
  set: (value) => (value ? localStorage.setItem(KEY, value) : localStorage.removeItem(KEY)),
};

let asking = null;
let askForToken = async () => false;

/** `ask`: shows the dialog for a token; resolves to whether one was given. */
export function onUnauthorized(ask) {
  askForToken = ask;
}

export const address = (path) => new URL(path, document.baseURI);

/** A request with the token; `Response` where it is one of success. Raises `Problem`. */
export async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const sent = token.get();
    const response = await attempt(path, { method, body, headers, signal, sent });
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (problem.status !== 401) throw problem;
    if (token.get() !== sent) continue; // another request has asked meanwhile
    asking ??= askForToken().finally(() => (asking = null));
    if (!(await asking)) throw problem;
  }
}

async function attempt(path, { method, body, headers, signal, sent }) {
  const all = { ...headers };
  if (body !== undefined) all["Content-Type"] = "application/json";
  if (sent) all.Authorization = `Bearer ${sent}`;
  try {
    return await fetch(address(path), {
      method, signal, headers: all, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server cannot be reached.");
  }
}

async function problemOf(response) {
  const after = Number(response.headers.get("Retry-After")) || 0;
  try {
    const { detail, title } = await response.json();
    return new Problem(response.status, sentence(detail || title), after);
  } catch {
    return new Problem(response.status, `The server answered with status ${response.status}.`, after);
  }
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/** JSON from the server; `null` for an answer without content. */
export async function json(path, options) {
  const response = await request(path, options);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server's answer broke off.");
  }
}

/** The same, tried again while the server is away or full, for a minute. `onwait(problem)` hears of each failure. */
export async function patient(path, options = {}, onwait = () => {}) {
  const end = Date.now() + PATIENCE;
  for (let tries = 0; ; tries++) {
    try {
      return await json(path, options);
    } catch (error) {
      if (!(error instanceof Problem) || !error.isPassing || Date.now() > end) throw error;
      onwait(error);
      await pause(backoff(tries, error.after));
    }
  }
}

/** Milliseconds before another try: longer each time, and by chance, so that not all come back together. */
export function backoff(tries, after = 0) {
  return Math.max(after * 1000, Math.min(10_000, 250 * 2 ** tries) * (0.5 + Math.random() / 2));
}

/** Waits; less where the network comes back, or the user does. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const over = () => {
      clearTimeout(timer);
      window.removeEventListener("online", over);
      document.removeEventListener("visibilitychange", seen);
      signal?.removeEventListener("abort", over);
      resolve();
    };
    const seen = () => document.visibilityState === "visible" && over();
    const timer = setTimeout(over, milliseconds);
    window.addEventListener("online", over);
    document.addEventListener("visibilitychange", seen);
    signal?.addEventListener("abort", over);
    if (signal?.aborted) over();
  });
}

const files = new Map();

/** A URL of this page's own for a file on the server, which asks for the token. Fetched once. */
export function fileUrl(path) {
  if (!files.has(path)) {
    const found = file(path).then((blob) => URL.createObjectURL(blob));
    files.set(path, found);
    found.catch(() => files.delete(path));
  }
  return files.get(path);
}

/** The bytes of a file on the server. */
export async function file(path) {
  return (await request(path)).blob();
}
