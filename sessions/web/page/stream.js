/**
 * Follows a turn: server-sent events by `fetch`, which can carry a token where `EventSource` cannot.
 * Rule: a stream that closes before `ended` was cut. It is opened again behind the last event that was seen; what the
 * server no longer has comes as a snapshot, which takes the place of all before it. So nothing is shown twice.
 */

import { Problem, backoff, pause, request } from "./api.js";

/** Milliseconds of silence after which a line is dead: the server says something every 15 seconds. */
const SILENCE = 40_000;
/** Of a page that was asleep: after so long its line is not trusted. */
const NAP = 20_000;

/** Cuts a stream of text into events: feed it pieces, it calls `onevent({ type, id, data })`. */
export class Parser {
  #rest = "";
  #event = { type: "", id: "", data: [] };

  constructor(onevent) {
    this.onevent = onevent;
  }

  feed(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") {
      const { type, id, data } = this.#event;
      this.#event = { type: "", id: "", data: [] };
      if (data.length) this.onevent({ type, id, data: data.join("\n") });
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: the line is alive
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#event.data.push(value);
    else if (field === "event") this.#event.type = value;
    else if (field === "id") this.#event.id = value;
  }
}

/**
 * Follows a turn to its end. `onevent(event)` hears each one; `onstate(text)` hears "" while the line is open, else
 * what is being done about it; `onend(problem)` is called once, with `null` behind `ended`.
 */
export class Follower {
  #leaving = new AbortController();
  #last = "";
  #heard = Date.now();
  #line = null;

  constructor(path, { onevent, onstate, onend }) {
    Object.assign(this, { path, onevent, onstate, onend });
    this.#run().then(onend, (error) => error.name !== "AbortError" && onend(error));
  }

  /** Leaves; the turn goes on. */
  leave() {
    this.#leaving.abort();
  }

  async #run() {
    const { signal } = this.#leaving;
    const awake = () => document.visibilityState === "visible" && Date.now() - this.#heard > NAP && this.#line?.abort();
    const watch = setInterval(() => Date.now() - this.#heard > SILENCE && this.#line?.abort(), 5_000);
    const online = () => this.#line?.abort(); // what was open before belongs to a network that is gone
    document.addEventListener("visibilitychange", awake);
    window.addEventListener("focus", awake);
    window.addEventListener("pageshow", awake);
    window.addEventListener("online", online);
    try {
      for (let tries = 0; !signal.aborted; tries++) {
        const before = this.#last;
        if (await this.#open()) return null;
        if (this.#last !== before) tries = 0;
        signal.throwIfAborted();
        this.onstate(navigator.onLine ? "Reconnecting…" : "You are offline. The answer goes on without you.");
        await pause(backoff(tries, this.after), signal);
      }
      signal.throwIfAborted();
      return null;
    } finally {
      clearInterval(watch);
      document.removeEventListener("visibilitychange", awake);
      window.removeEventListener("focus", awake);
      window.removeEventListener("pageshow", awake);
      window.removeEventListener("online", online);
    }
  }

  /** One line, to its end. Whether the turn has ended. Raises `Problem` for what another try does not mend. */
  async #open() {
    const line = (this.#line = new AbortController());
    const signal = AbortSignal.any([line.signal, this.#leaving.signal]);
    this.after = 0;
    this.#heard = Date.now();
    try {
      const headers = { Accept: "text/event-stream" };
      if (this.#last) headers["Last-Event-ID"] = this.#last;
      const response = await request(this.path, { headers, signal });
      if (response.status === 204) return true;
      return await this.#read(response.body.getReader());
    } catch (error) {
      this.#leaving.signal.throwIfAborted();
      if (error instanceof Problem && !error.isPassing) throw error;
      if (!(error instanceof Problem) && !(error instanceof TypeError) && error.name !== "AbortError") throw error;
      this.after = error.after ?? 0;
      return false;
    } finally {
      line.abort();
    }
  }

  async #read(reader) {
    const decoder = new TextDecoder();
    let hasEnded = false;
    const parser = new Parser(({ type, id, data }) => {
      if (hasEnded || type === "ping") return;
      if (id) this.#last = id;
      hasEnded = type === "ended";
      this.onevent(JSON.parse(data));
    });
    for (;;) {
      const { value, done } = await reader.read();
      if (done || hasEnded) return hasEnded;
      this.#heard = Date.now();
      this.onstate("");
      parser.feed(decoder.decode(value, { stream: true }));
      if (hasEnded) return true;
    }
  }
}
