/**
 * One turn as it is seen: the user's words, the answer, what it cost, and what can be done with it.
 * Rule: entries are durable and take the place of what was under way; a snapshot takes the place of everything.
 */

import { LiveBlock, attachment, stored } from "./blocks.js";
import { announce, button, compact, copyButton, h, icon, money, percent, seconds, shares, svg, whole } from "./dom.js";

const REST = new Set(["finished", "cancelled", "failed", "interrupted", "waiting"]);
const SHORT = { max_tokens: "The answer reached its limit of tokens and was cut.", refusal: "The model declined to answer.",
  model_context_window_exceeded: "The conversation has filled the model's context." };

/** Whether an entry holds words of the user, not only results of tools. */
export const isWords = (entry) => entry.role === "user" && entry.blocks.some((block) => block.type !== "tool_result");

export const textOf = (entry) => entry.blocks.filter((block) => block.type === "text").map((block) => block.text).join("\n\n");

/** `actions`: what the conversation does for it: edit, regenerate, fork, resume, decide, walk, cancel. */
export class TurnView {
  #words = h("div.words");
  #pagers = { words: h("div.pager", { "data-part": "words" }), answer: h("div.pager", { "data-part": "answer" }) };
  #parts = h("div.parts");
  #live = h("div.parts");
  #note = h("div.notes");
  #footer = h("div.footer");
  #open = new Set();
  #cards = new Map();
  #calls = new Map();
  #blocks = new Map();
  #usage = null;
  #cost = null;
  #isEditing = false;
  #isRestarted = false;
  #replies = 0;
  #footed = "";

  constructor(actions) {
    this.actions = actions;
    this.id = null;
    this.state = "queued";
    this.entries = [];
    this.turn = null;
    this.error = null;
    const { words, answer } = this.#pagers;
    this.element = h("article.turn", { "aria-label": "Question and answer" }, this.#words, words,
      h("div.answer", {}, this.#parts, this.#live, this.#note, answer, this.#footer));
  }

  /** The id of the entry with the user's words; `null` while they are on their way. */
  get entry() {
    return this.entries[0] && isWords(this.entries[0]) ? this.entries[0].id : null;
  }

  get last() {
    return this.entries.at(-1)?.id ?? null;
  }

  get isAtRest() {
    return REST.has(this.state);
  }

  /** The text of the answer. */
  get text() {
    return this.entries.filter((entry) => entry.role === "assistant").map(textOf).filter(Boolean).join("\n\n");
  }

  get words() {
    return this.entry ? textOf(this.entries[0]) : "";
  }

  // -- what is stored, and what is on its way --

  /** Words that are being sent: `files` are attachments that are still here. */
  sending(text, files) {
    this.#drawWords(text, files, false);
    this.state = "queued";
    this.#drawEnd();
  }

  /** The server has them. */
  sent(state) {
    this.state = state;
    this.#drawEnd();
  }

  /** What is stored of it. Drawn anew only where it differs. */
  show(entries, turn, pending) {
    const isSame = this.entries.length === entries.length && entries.every((entry, at) => entry.id === this.entries[at].id);
    if (!isSame || this.#blocks.size) this.#redraw(entries);
    this.turn = turn;
    this.id = turn?.id ?? this.id;
    this.state = turn?.state ?? "finished";
    this.error = turn?.error ?? null;
    this.#wait(pending);
    if (turn && this.isAtRest) [this.#usage, this.#cost] = [turn.usage, turn.cost];
    this.#drawEnd();
  }

  #redraw(entries) {
    this.entries = [];
    this.#replies = 0;
    this.#cards.clear();
    this.#calls.clear();
    this.#parts.replaceChildren();
    this.#clear();
    for (const entry of entries) this.#add(entry);
  }

  #add(entry) {
    this.entries.push(entry);
    if (isWords(entry)) {
      if (this.entries.length === 1) this.#drawWords(textOf(entry), filesOf(entry), true);
      else this.#parts.append(h("div.words", {}, bubble(textOf(entry), filesOf(entry))));
    }
    if (entry.role === "assistant") this.#replies += 1;
    entry.blocks.forEach((block, at) => {
      if (entry.role === "user" && block.type !== "tool_result") return;
      const shown = stored(block, `${this.#replies}.${at}`, this.#open, this.#cards);
      if (shown) this.#parts.append(shown);
    });
  }

  #clear() {
    this.#blocks.clear();
    this.#live.replaceChildren();
  }

  // -- events --

  /** One event of the stream. */
  hear(event) {
    const heard = this[`on_${event.type}`];
    if (heard) heard.call(this, event);
  }

  on_snapshot({ state, entries, blocks, tools, pending }) {
    this.state = state;
    [this.#usage, this.#cost] = [null, null];
    this.#redraw(entries);
    for (const { index, block, input_json: typed, is_closed: isClosed } of blocks) {
      const live = this.#start(index, block);
      if (typed && !isClosed) live.add("input_json", typed);
      if (isClosed) live.close(block.html);
    }
    for (const tool of tools) {
      this.on_tool_started(tool);
      for (const text of tool.progress) this.on_tool_progress({ call_id: tool.call_id, text });
      if (tool.result !== null) this.on_tool_result({ ...tool, content: tool.result });
    }
    this.#wait(pending);
    this.#drawEnd();
  }

  on_block_start({ index, block }) {
    this.#start(index, block);
  }

  #start(index, block) {
    const live = new LiveBlock(block, `${this.#replies + 1}.${index}`, this.#open, this.#cards);
    this.#blocks.get(index)?.element.remove();
    this.#blocks.set(index, live);
    this.#live.append(live.element);
    return live;
  }

  on_delta({ index, kind, value }) {
    this.#blocks.get(index)?.add(kind, value);
  }

  on_block_stop({ index, html }) {
    this.#blocks.get(index)?.close(html);
  }

  on_tool_started({ call_id: call, tool_use_id: id, name, input }) {
    let card = this.#cards.get(id);
    if (!card) {
      this.#parts.append(stored({ type: "tool_use", id, name, input }, id, this.#open, this.#cards));
      card = this.#cards.get(id);
    }
    this.#calls.set(call, card);
    card.started(input);
  }

  on_tool_progress({ call_id: call, text }) {
    this.#calls.get(call)?.said(text);
  }

  on_tool_result({ tool_use_id: id, content, is_error: isError }) {
    this.#cards.get(id)?.result(content, isError);
  }

  on_entry({ entry }) {
    this.state = "running";
    this.#clear();
    if (!this.entries.some((known) => known.id === entry.id)) this.#add(entry);
    this.#drawEnd();
  }

  on_restarted() {
    this.#isRestarted ||= this.#blocks.size > 0 || this.#calls.size > 0;
    this.#clear();
    for (const card of this.#calls.values()) card.reset();
    this.#calls.clear();
    this.state = "running";
    this.#drawEnd();
  }

  on_approval_needed({ calls }) {
    this.#wait(calls);
  }

  on_usage({ usage, cost }) {
    const before = this.#usage ?? {};
    this.#usage = Object.fromEntries(Object.entries(usage).map(([name, count]) => [name, count + (before[name] ?? 0)]));
    this.#cost = String(Number(cost ?? 0) + Number(this.#cost ?? 0));
    this.#drawFooter();
  }

  on_ended({ state, stop_reason: reason, usage, cost, miss, error }) {
    this.state = state;
    this.error = error;
    this.#clear();
    [this.#usage, this.#cost] = [usage, cost];
    this.turn = { ...this.turn, id: this.id, state, stop_reason: reason, usage, cost, miss, error };
    this.#drawEnd();
    if (state === "finished") announce(`Answer: ${this.text.slice(0, 2000)}`);
    else if (state === "waiting") announce("The answer waits for you.");
    else announce("The answer has ended early.");
  }

  /** Shows which calls wait, and for whom; all others do not. */
  #wait(pending) {
    const waiting = new Map(pending.map((call) => [call.tool_use_id, call]));
    for (const [id, card] of this.#cards) {
      const call = waiting.get(id);
      if (!call) card.settle();
      else card.wait(call, (approve, input, reason) => this.actions.decide(this, call, approve, input, reason));
    }
  }

  // -- drawing --

  #drawWords(text, files, isStored) {
    if (this.#isEditing) return;
    const row = isStored
      ? h("div.actions", {}, copyButton(() => text, "Copy these words"),
        button("Edit", () => this.startEdit(), { name: "edit" }))
      : null;
    this.#words.replaceChildren(bubble(text, files), row ?? "");
  }

  /** Words in place of these: the answer that follows them begins anew, as a branch. */
  startEdit() {
    if (!this.entry || this.#isEditing) return;
    this.#isEditing = true;
    const files = filesOf(this.entries[0]);
    const area = h("textarea", { "aria-label": "Edit your words", rows: "3" });
    area.value = this.words;
    const end = () => {
      this.#isEditing = false;
      this.#drawWords(this.words, files, true);
    };
    const send = () => {
      if (!area.value.trim() && !files.length) return;
      end();
      this.actions.edit(this, area.value.trim(), files);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
        this.#words.querySelector("button[aria-label=Edit]")?.focus();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.#words.replaceChildren(h("form.edit", { onsubmit: (event) => (event.preventDefault(), send()) },
      files.length ? h("div.files", {}, files.map(attachment)) : null, area,
      h("div.row", {}, h("button", { type: "button", onclick: end }, "Cancel"),
        h("button.primary", { type: "submit" }, "Send"))));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  #drawEnd() {
    this.element.dataset.state = this.state;
    this.element.setAttribute("aria-busy", String(!this.isAtRest));
    this.#drawNote();
    this.#drawFooter();
  }

  #drawNote() {
    const notes = [];
    const note = (text, ...more) => notes.push(h("p.note", {}, text, ...more));
    if (this.#isRestarted) note("Restarted: the answer began anew, because the worker that wrote it went away.");
    if (this.state === "queued") {
      note("Queued ", this.id ? h("button.link", { type: "button", onclick: () => this.actions.cancel(this) }, "Take back") : "");
    } else if (this.state === "running") {
      notes.push(h("p.working", {}, h("span.hidden", {}, "Answering"), h("i"), h("i"), h("i")));
    } else if (this.state === "cancelled") {
      note("Stopped.");
    } else if (this.state === "interrupted") {
      note("The answer was interrupted. ", this.error ?? "", " ",
        h("button", { type: "button", onclick: () => this.actions.resume(this) }, "Go on"));
    } else if (this.state === "failed") {
      note("The answer failed. ", this.error ?? "", " ",
        h("button", { type: "button", onclick: () => this.actions.regenerate(this) }, "Try again"));
    } else if (this.state === "finished" && SHORT[this.turn?.stop_reason]) {
      note(SHORT[this.turn.stop_reason]);
    }
    this.#note.replaceChildren(...notes);
  }

  #drawFooter() {
    const { turn } = this;
    const took = turn?.started && turn?.ended && this.isAtRest ? turn.ended - turn.started : null;
    // Drawn where it says something else, so that focus stays on its buttons.
    const now = JSON.stringify([this.state, this.#usage, this.#cost, took, turn?.miss, this.last]);
    if (now === this.#footed) return;
    this.#footed = now;
    const isUsed = this.#usage && this.#usage.output + shares(this.#usage).all > 0;
    const line = h("div.cost", {}, isUsed ? costs(this.#usage, this.#cost, took) : null);
    const ended = this.isAtRest && this.state !== "waiting" && this.entry;
    const row = ended && h("div.actions", {},
      this.text ? copyButton(() => this.text, "Copy the answer") : null,
      button("Another answer", () => this.actions.regenerate(this), { name: "retry" }),
      button("Branch here", () => this.actions.fork(this), { name: "branch" }));
    this.#footer.replaceChildren(h("div.line", {}, line, row || null), turn?.miss ? why(turn.miss) : "");
  }

  /** `variants` of the words, or of the answer: branches in the order they were made, this one among them (`null`). */
  branches(part, variants) {
    const pager = this.#pagers[part];
    const at = variants.indexOf(null);
    const step = (label, name, to) => button(label, () => this.actions.walk(variants[to], part, label), {
      name, disabled: to < 0 || to >= variants.length,
    });
    // Left as it is where it says the same: it may have the focus.
    const now = JSON.stringify(variants.map((variant) => variant?.session));
    if (pager.dataset.now === now) return;
    pager.dataset.now = now;
    pager.replaceChildren(variants.length < 2 ? "" : h("div", {
      role: "group", "aria-label": part === "words" ? "Branches of your words" : "Branches of the answer",
    }, step("Previous branch", "left", at - 1), h("span", {}, `${at + 1}/${variants.length}`),
    step("Next branch", "right", at + 1)));
  }
}

function filesOf(entry) {
  return entry.blocks.filter((block) => block.type === "image" || block.type === "document");
}

function bubble(text, files) {
  return h("div.bubble", {}, h("span.hidden", {}, "You said"),
    files.length ? h("div.files", {}, files.map(attachment)) : null, text ? h("p.plain", {}, text) : null);
}

function costs(usage, cost, took) {
  const { read, written, uncached, all } = shares(usage);
  const said = `Input: ${whole(all)} tokens; ${whole(read)} read from the cache, ${whole(written)} written to it, ${whole(uncached)} uncached`;
  return [
    bar([["read", read], ["written", written], ["uncached", uncached]], said),
    h("span", { title: said }, `${percent(read, all)} from cache`),
    h("span", { title: `${whole(all)} tokens in, ${whole(usage.output)} out` }, `${compact(all)} in · ${compact(usage.output)} out`),
    h("span.price", {}, money(cost)),
    took === null ? null : h("span", {}, seconds(took)),
  ];
}

/** A bar with the shares of the whole, from left to right. */
export function bar(parts, label) {
  const drawing = svg("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label });
  const all = parts.reduce((sum, [, part]) => sum + part, 0) || 1;
  let left = 0;
  for (const [name, part] of parts) {
    const width = (100 * part) / all;
    drawing.append(svg("rect", { class: name, x: left, y: 0, width, height: 6 }));
    left += width;
  }
  return drawing;
}

function why(miss) {
  return h("details.miss", {}, h("summary", {}, "Why did this cost more?"),
    h("p", {}, icon("warning"), miss.message, miss.cost ? h("strong", {}, ` +${money(miss.cost)}`) : null));
}
