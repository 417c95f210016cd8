/**
 * The conversation that is open: its turns, following what is under way, and what the user does with it.
 * Rule: what is stored is the truth. One turn at a time is followed; all else is shown as it was last read, and read
 * again when a turn ends, when the user comes back, and now and then.
 */

import { Problem, file, json, patient } from "./api.js";
import { base64 } from "./files.js";
import { h } from "./dom.js";
import { Follower } from "./stream.js";
import { TurnView, isWords } from "./turn.js";

/** Milliseconds between two looks at a conversation where nothing is under way here. */
const LOOK = 20_000;
/** Pixels from the end at which the page still follows what is written. */
const NEAR = 80;

/**
 * `list`: where turns are shown, inside `scroller`. `onchange(conversation)`: something else is to be told of it;
 * `onnotice(text)`: what is wrong, "" where nothing is; `onopen(id)`: go to another one.
 */
export class Conversation {
  id = null;
  data = null;
  views = [];
  following = null;
  #follower = null;
  #sending = 0;
  #loads = 0;
  #entries = 0;
  #looking = false;
  #isNear = true;
  #seen = "";
  #target = null;

  constructor({ list, scroller, onchange, onnotice, onopen }) {
    Object.assign(this, { list, scroller, onchange, onnotice, onopen });
    const look = () => document.visibilityState === "visible" && this.look();
    document.addEventListener("visibilitychange", look);
    window.addEventListener("focus", look);
    window.addEventListener("online", look);
    setInterval(look, LOOK);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#isNear && this.toEnd()).observe(list);
  }

  get isRunning() {
    return this.#sending > 0 || this.views.some((view) => !view.isAtRest);
  }

  /** Shows this conversation; a new one for `null`. */
  async open(id) {
    const isNew = id !== this.id;
    if (isNew) this.#leave();
    this.id = id;
    this.onchange(this);
    if (id !== null) await this.load();
  }

  /** The new conversation has this id. */
  adopt(id) {
    this.id = id;
  }

  #leave() {
    this.#follower?.leave();
    this.#follower = this.following = this.data = null;
    this.#loads += 1;
    this.#sending = this.#entries = 0;
    this.#seen = "";
    this.views = [];
    this.list.replaceChildren();
    this.#isNear = true;
    this.onnotice("");
  }

  /** Reads it, and shows what is stored. */
  async load() {
    const load = ++this.#loads;
    const { id } = this;
    try {
      const data = await patient(this.#path(this.#entries ? `?entries=${this.#entries}` : ""), {},
        () => load === this.#loads && this.onnotice("Reconnecting…"));
      if (load !== this.#loads || id !== this.id) return; // something newer was asked for
      if (!this.following) this.onnotice("");
      this.#show(data);
    } catch (error) {
      if (load !== this.#loads) return;
      this.onnotice(error instanceof Problem && error.status === 404 ? "This conversation is not there any more." : error.message);
      if (!(error instanceof Problem)) throw error;
    }
  }

  /** Reads it again where it has changed: another tab, another worker. */
  async look() {
    if (!this.id || this.following || this.#sending || this.#looking) return;
    this.#looking = true;
    const { id } = this;
    try {
      const data = await json(this.#path("?entries=1"));
      if (id === this.id && !this.following && !this.#sending && stamp(data) !== this.#seen) await this.load();
    } catch (error) {
      if (!(error instanceof Problem)) throw error; // the next look may find it
    } finally {
      this.#looking = false;
    }
  }

  #path(rest = "") {
    return `api/sessions/${encodeURIComponent(this.id)}${rest}`;
  }

  // -- showing --

  #show(data) {
    this.data = data;
    this.#seen = stamp(data);
    const known = new Map(this.views.flatMap((view) => [[view.entry, view], [view.id, view]]));
    known.delete(null);
    const shown = groups(data).map(({ entries, turn }) => {
      const view = known.get(entries[0]?.id) ?? known.get(turn?.id) ?? new TurnView(this);
      if (view !== this.following) view.show(entries, turn, data.pending);
      return view;
    });
    // What is on its way is in nothing that is stored yet.
    const more = this.views.filter((view) => !shown.includes(view) && (view === this.following || view.id === null));
    this.#place([...new Set([...shown, ...more])]);
    this.#drawBranches();
    this.#goOn();
    this.onchange(this);
    this.#aim();
  }

  #place(views) {
    this.views = views;
    const left = this.data?.earlier
      ? [h("button.earlier", { type: "button", onclick: () => this.#showEarlier() }, `Show ${this.data.earlier} earlier entries`)]
      : [];
    const wanted = [...left, ...views.map((view) => view.element)];
    for (const element of [...this.list.children]) if (!wanted.includes(element)) element.remove();
    // Elements that are in their place are left alone: moving one would take its focus.
    wanted.forEach((element, at) => {
      if (this.list.children[at] !== element) this.list.insertBefore(element, this.list.children[at] ?? null);
    });
  }

  #showEarlier() {
    this.#isNear = false;
    this.#entries = this.data.entries.length + Math.max(400, this.data.earlier);
    this.load();
  }

  #drawBranches() {
    for (const view of this.views) {
      const [words, ...answer] = view.entries.map((entry) => entry.id);
      view.branches("words", this.#variants([words]));
      view.branches("answer", this.#variants(answer));
    }
  }

  /** The branches that part at one of these entries, and this conversation (`null`), in the order they were made. */
  #variants(ids) {
    const { session, branches } = this.data;
    const here = branches.filter((branch) => branch.next && ids.includes(branch.of));
    // What others were split off is the newest: a conversation that is edited keeps its id.
    const age = (branch) => (branch.is_parent ? Infinity : branch.created_at);
    const own = session.parent && !here.some((branch) => branch.is_child) ? session.created_at : Infinity;
    const newest = new Map(); // several may begin with the same entry, and part further on
    for (const branch of here.toSorted((a, b) => age(a) - age(b))) newest.set(branch.next, branch);
    const found = [...newest.values()].toSorted((a, b) => age(a) - age(b));
    const before = found.filter((branch) => age(branch) < own).length;
    return found.toSpliced(before, 0, null);
  }

  /** Follows the turn that is under way, where there is one and none is followed. */
  #goOn() {
    if (this.following) return;
    const open = this.views.filter((view) => view.id && !view.isAtRest);
    const next = open.find((view) => view.state === "running") ?? open[0];
    if (next) this.#follow(next, next.id);
  }

  #follow(view, turn) {
    this.#follower?.leave();
    this.following = view;
    view.id = turn;
    this.#follower = new Follower(this.#path(`/turns/${encodeURIComponent(turn)}/events`), {
      onevent: (event) => {
        view.hear(event);
        if (event.type === "snapshot" || event.type === "ended") this.onchange(this);
      },
      onstate: (text) => this.onnotice(text),
      onend: (problem) => {
        if (this.following !== view) return;
        this.#follower = this.following = null;
        this.onnotice(problem ? problem.message : "");
        this.onchange(this);
        if (!problem) this.load(); // else the next look may find more
      },
    });
    this.onchange(this);
  }

  // -- scrolling --

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const isNear = scrollHeight - scrollTop - clientHeight < NEAR;
    if (isNear === this.#isNear) return;
    this.#isNear = isNear;
    this.scroller.dataset.far = String(!isNear);
  }

  toEnd() {
    this.#isNear = true;
    this.scroller.dataset.far = "false";
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** After a walk to another branch: where it parts. */
  #aim() {
    const target = this.#target;
    this.#target = null;
    const view = target && this.views.find((one) => one.entries.some((entry) => entry.id === target.entry));
    if (!view) return;
    this.#isNear = false;
    view.element.scrollIntoView({ block: "start" });
    const buttons = [...view.element.querySelectorAll(`[data-part=${target.part}] button:not([disabled])`)];
    (buttons.find((one) => one.getAttribute("aria-label") === target.label) ?? buttons[0])?.focus();
  }

  // -- what the user does --

  /** Says something. `message`: `{ id, text, files, interrupt }`. Raises `Problem`; the words are then not sent. */
  async send({ id, text, files, interrupt }) {
    const content = [...files.map(filePart), ...(text ? [{ type: "text", text }] : [])];
    const view = this.#begin(text, files);
    await this.#post(view, "/turns", { id, content, while_running: interrupt ? "interrupt" : "queue" });
  }

  #begin(text, files) {
    const view = new TurnView(this);
    view.sending(text, files);
    this.#place([...this.views, view]);
    this.toEnd();
    return view;
  }

  /** Asks the server for a turn, and follows it in `view`, behind what runs before it. */
  async #post(view, path, body) {
    const { id } = this;
    this.#sending += 1;
    this.#loads += 1; // what is being read does not have it
    this.onchange(this);
    try {
      const begun = await patient(this.#path(path), { method: "POST", body }, () => this.onnotice("Reconnecting…"));
      if (id !== this.id) return;
      this.onnotice("");
      this.#sending -= 1;
      if (this.views.some((one) => one.id === begun.turn)) {
        this.#place(this.views.filter((one) => one !== view)); // sent before, and heard of now
      } else {
        view.id = begun.turn;
        view.sent(begun.state);
        if (!this.following) this.#follow(view, begun.turn);
      }
      await this.load();
    } catch (error) {
      if (id !== this.id) throw error;
      this.#sending -= 1;
      this.#place(this.views.filter((one) => one !== view));
      this.onnotice("");
      this.load();
      throw error;
    }
  }

  /** Other words in the place of those; what followed stays as a branch. */
  async edit(view, text, files) {
    const id = crypto.randomUUID();
    await this.#try(async () => {
      const sent = await Promise.all(files.map(async (one) => ({ ...one, data: await base64(await file(one.url)) })));
      await this.#again(view, text, files, "/turns", {
        id, edit: view.entry, content: [...sent.map(filePart), ...(text ? [{ type: "text", text }] : [])],
      });
    });
  }

  /** Another answer to the same words. */
  async regenerate(view) {
    const files = view.entries[0].blocks.filter((block) => block.type === "image" || block.type === "document");
    await this.#try(() => this.#again(view, view.words, files, "/regenerate", { turn: view.turn?.id ?? view.id }));
  }

  async #again(view, text, files, path, body) {
    this.#follower?.leave();
    this.#follower = this.following = null;
    this.#place(this.views.slice(0, this.views.indexOf(view)));
    await this.#post(this.#begin(text, files), path, body);
  }

  async resume(view) {
    view.sent("running"); // nothing to press twice
    await this.#try(async () => {
      const begun = await json(this.#path("/resume"), { method: "POST", body: {} });
      this.#follow(view, begun.turn);
    });
    if (!this.following) this.load();
  }

  /** Stops what is under way here. */
  async stop() {
    const view = this.following ?? this.views.findLast((one) => one.id && !one.isAtRest);
    if (view) await this.cancel(view);
  }

  async cancel(view) {
    await this.#try(async () => {
      await json(this.#path(`/turns/${encodeURIComponent(view.id)}/stop`), { method: "POST", body: {} });
      if (view !== this.following) await this.load();
    });
  }

  /** Raises `Problem`, which the card shows. */
  async decide(view, call, approve, input, reason) {
    try {
      const body = { call_id: call.call_id, approve, input, reason };
      const { pending, turn } = await json(this.#path("/decisions"), { method: "POST", body });
      if (!pending.length && turn) this.#follow(view, turn);
    } catch (error) {
      if (error instanceof Problem && error.status === 409) this.load(); // decided elsewhere
      throw error;
    }
  }

  async fork(view) {
    await this.#try(async () => {
      const made = await json(this.#path("/fork"), { method: "POST", body: { at: view.last } });
      this.onopen(made.id);
    });
  }

  /** Goes to another branch, at the point where it parts. */
  walk(branch, part, label) {
    this.#target = { entry: branch.next, part, label };
    this.onopen(branch.session);
  }

  async #try(act) {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.onnotice(error.message);
    }
  }
}

/** The entries of each turn, in order; queued turns, which have none yet, behind them. */
function groups({ entries, turns }) {
  const byEntry = new Map(turns.flatMap((turn) => [turn.entry, ...turn.replies].map((id) => [id, turn])));
  const found = [];
  for (const entry of entries) {
    if (isWords(entry) || !found.length) found.push({ entries: [], turn: null });
    const group = found.at(-1);
    group.entries.push(entry);
    group.turn = byEntry.get(entry.id) ?? group.turn;
  }
  const rest = turns.filter((turn) => turn.state === "queued" || turn.state === "running");
  return [...found, ...rest.filter((turn) => found.every((group) => group.turn !== turn)).map((turn) => ({ entries: [], turn }))];
}

/** What changes whenever a conversation does. */
function stamp({ session, entries, turns, pending, branches }) {
  return JSON.stringify([session.title, entries.at(-1)?.id, turns.map((turn) => [turn.id, turn.state]),
    pending.map((call) => call.call_id), branches.length]);
}

function filePart({ name, media_type: kind, data, type }) {
  return { type: "file", name: name || (type === "image" ? "picture" : "file"), media_type: kind, data };
}
