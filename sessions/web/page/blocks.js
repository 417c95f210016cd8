/**
 * Content blocks as they are seen: text, thinking, tools, files.
 * Rule: a block under way grows by text nodes and is never drawn anew; a stored one is drawn once.
 */

import { fileUrl } from "./api.js";
import { bytes, h, icon, markdown, pretty } from "./dom.js";

const dirty = new Set();

/** Draws what has come, once for each frame; a page that is not seen has no frames. */
function draw() {
  for (const text of dirty) text.flush();
  dirty.clear();
}

function schedule(text) {
  if (!dirty.size) document.hidden ? setTimeout(draw, 200) : requestAnimationFrame(draw);
  dirty.add(text);
}

/** Text under way. Each paragraph is an element of its own: only the last one is laid out again as it grows. */
export class GrowingText {
  #coming = "";
  #last = null;

  constructor(text = "") {
    this.element = h("div.prose.growing");
    this.#coming = text;
    this.flush();
  }

  add(text) {
    this.#coming += text;
    schedule(this);
  }

  flush() {
    const [first, ...more] = this.#coming.split(/\n{2,}/);
    this.#coming = "";
    if (first) this.#append(first);
    for (const paragraph of more) {
      this.#last = null;
      this.#append(paragraph);
    }
  }

  #append(text) {
    if (!this.#last) {
      this.#last = document.createTextNode("");
      this.element.append(h("p.plain", {}, this.#last));
    }
    this.#last.appendData(text);
  }
}

/** What can be unfolded. `open` remembers by `key` what the user has unfolded, also when it is drawn anew. */
export function fold(classes, key, open, summary, ...children) {
  return h(`details.${classes}`, {
    open: open.has(key),
    ontoggle: (event) => (event.target.open ? open.add(key) : open.delete(key)),
  }, h("summary", {}, ...summary), ...children);
}

/** Text that scrolls, also by the keyboard. */
function listing(label, text) {
  return h("pre", { tabindex: "0", role: "region", "aria-label": label }, text);
}

/** A tool: its name, what it was given, how far it is, and what it gave. */
export class ToolCard {
  #state = h("span.state");
  #hint = h("span.hint");
  #input = h("div");
  #progress = h("ol.progress", { "aria-label": "Progress" });
  #result = h("div");
  #typed = null;
  #approval = null;

  constructor(block, open) {
    this.name = block.name ?? "tool";
    this.details = fold("tool", block.id, open,
      [icon("tool"), h("strong", {}, this.name), this.#hint, this.#state], this.#input, this.#progress, this.#result);
    this.element = h("div.tool-card", {}, this.details);
    this.progress = 0;
    this.input(block.input);
    this.state("called");
  }

  state(name) {
    const words = { called: "", running: "running…", waiting: "waits for you", program: "waits for the program",
      done: "done", failed: "failed" };
    this.details.dataset.state = name;
    this.#state.textContent = words[name];
  }

  input(value) {
    if (value === undefined || value === null) return;
    this.#typed = null;
    const text = pretty(value);
    this.#input.replaceChildren(text === "{}" ? "" : listing(`Input of ${this.name}`, text));
    if (!this.progress) this.#hint.textContent = brief(value);
  }

  /** More of the JSON text of its input. */
  type(text) {
    if (!this.#typed) {
      this.#typed = document.createTextNode("");
      this.#input.replaceChildren(listing(`Input of ${this.name}`, this.#typed));
    }
    this.#typed.appendData(text);
  }

  started(input) {
    this.input(input);
    this.settle();
    this.state("running");
  }

  said(text) {
    this.progress += 1;
    this.#progress.append(h("li", {}, text));
    if (this.#progress.children.length > 100) this.#progress.firstChild.remove();
    this.#hint.textContent = text;
  }

  result(content, isError) {
    this.settle();
    this.state(isError ? "failed" : "done");
    this.#result.replaceChildren(...parts(content).map((part) =>
      typeof part === "string" ? listing(`Result of ${this.name}`, part) : attachment(part)));
  }

  /** The call waits: for the user's decision, made by `decide(approve, input, reason)`, or for the program. */
  wait(call, decide) {
    if (this.#approval?.dataset.call === call.call_id) return;
    this.settle();
    this.state(call.by_caller ? "program" : "waiting");
    this.#approval = call.by_caller
      ? h("p.note", {}, "The program that runs this conversation brings the result of ", h("strong", {}, this.name),
        "; the answer goes on when it has.")
      : approval(call, decide);
    this.#approval.dataset.call = call.call_id;
    this.element.append(this.#approval);
  }

  /** It waits no longer. */
  settle() {
    if (!this.#approval) return;
    this.#approval.remove();
    this.#approval = null;
    this.state("called");
  }

  /** What it said is void: it begins anew, or was never finished. */
  reset() {
    this.settle();
    this.progress = 0;
    this.#progress.replaceChildren();
    this.#result.replaceChildren();
    this.state("called");
  }
}

function brief(input) {
  const values = typeof input === "object" && input !== null ? Object.values(input) : [input];
  return values.map((value) => (typeof value === "string" ? value : JSON.stringify(value))).join(", ").slice(0, 120);
}

function parts(content) {
  if (content === null || content === undefined) return [];
  if (typeof content === "string") return content ? [content] : [];
  if (!Array.isArray(content)) return [pretty(content)];
  return content.map((part) => {
    if (part.type === "text") return part.text;
    return part.type === "image" || part.type === "document" ? part : pretty(part);
  });
}

let count = 0;

function approval(call, decide) {
  const id = `approval-${++count}`;
  const given = pretty(call.input ?? {});
  const input = h("textarea.mono", { id: `${id}-input`, rows: Math.min(12, given.split("\n").length), spellcheck: "false" });
  input.value = given;
  const reason = h("input", { id: `${id}-reason`, maxlength: "10000", placeholder: "Why not? (told to the model)" });
  const error = h("p.error", { role: "alert" });
  const send = async (approve, value, why) => {
    error.textContent = "";
    form.inert = true;
    try {
      await decide(approve, value, why);
      form.replaceChildren(h("p", {}, approve ? "Approved." : "Denied."));
    } catch (problem) {
      form.inert = false;
      error.textContent = problem.message;
    }
  };
  const approve = () => {
    if (input.value === given) return send(true, null, null);
    try {
      const value = JSON.parse(input.value);
      if (typeof value !== "object" || value === null || Array.isArray(value)) throw new SyntaxError();
      return send(true, value, null);
    } catch {
      error.textContent = "The input must be a JSON object, such as {\"amount\": 5}.";
      return input.focus();
    }
  };
  const form = h("form.approval", {
    "aria-label": `Approval of ${call.name}`,
    onsubmit: (event) => (event.preventDefault(), approve()),
  },
  h("p", {}, icon("warning"), h("strong", {}, call.name), " needs your approval."),
  h("label", { for: `${id}-input` }, "Input, which you may change"), input,
  h("label", { for: `${id}-reason` }, "Reason, if you deny"), reason,
  error,
  h("div.row", {},
    h("button.primary", { type: "submit" }, "Approve"),
    h("button", { type: "button", onclick: () => send(false, null, reason.value.trim() || null) }, "Deny")));
  return form;
}

/** A file: a picture, or its name; unfolded from the server with the token. `local`: not sent yet. */
export function attachment({ type, name, media_type: kind, url, local, size }) {
  const label = name || (type === "image" ? "Picture" : kind === "application/pdf" ? "PDF" : "File");
  if (type === "image" && (url || local)) {
    const picture = h("img.picture", { alt: label, title: label });
    if (local) picture.src = local;
    else fileUrl(url).then((found) => (picture.src = found), () => picture.replaceWith(chip(label, kind)));
    return picture;
  }
  if (!url) return chip(label, kind, size);
  return h("button.chip", {
    type: "button",
    title: `Save ${label}`,
    onclick: async () => h("a", { href: await fileUrl(url), download: label }).click(),
  }, icon("attach"), h("span", {}, label));
}

function chip(label, kind, size) {
  return h("span.chip", { title: kind }, icon("attach"), h("span", {}, label), size ? h("small", {}, bytes(size)) : null);
}

/** A stored block of an answer; `null` for one that shows nothing of its own. */
export function stored(block, key, open, cards) {
  if (block.type === "text") return block.text.trim() ? text(block) : null;
  if (block.type === "thinking") return block.thinking ? thought(key, open, block.thinking) : null;
  if (block.type === "redacted_thinking") return null;
  if (block.type === "tool_use" || block.type === "server_tool_use" || block.type === "mcp_tool_use") {
    const card = new ToolCard(block, open);
    cards.set(block.id, card);
    return card.element;
  }
  if (block.tool_use_id) {
    cards.get(block.tool_use_id)?.result(block.content, Boolean(block.is_error));
    return null;
  }
  if (block.type === "image" || block.type === "document") return attachment(block);
  if (block.type === "compaction") {
    return fold("thought", key, open, ["What was said before, summed up"], h("p.plain", {}, block.content ?? ""));
  }
  return fold("thought", key, open, [String(block.type).replaceAll("_", " ")], listing(block.type, pretty(block)));
}

function text(block) {
  const shown = markdown(block.html, block.text);
  const sources = (block.citations ?? []).filter((citation) => citation.cited_text || citation.url);
  if (sources.length) shown.append(h("ol.sources", { "aria-label": "Sources" }, sources.map(source)));
  return shown;
}

function source(citation) {
  const name = citation.title || citation.document_title || citation.source || citation.url || "Source";
  const isWeb = /^https?:\/\//i.test(citation.url ?? "");
  return h("li", {}, isWeb
    ? h("a", { href: citation.url, target: "_blank", rel: "noopener noreferrer nofollow" }, name)
    : h("cite", {}, name), citation.cited_text ? h("q", {}, citation.cited_text.slice(0, 300)) : null);
}

function thought(key, open, content) {
  return fold("thought", key, open, ["Thoughts"], typeof content === "string" ? h("p.plain", {}, content) : content);
}

/** A block under way. */
export class LiveBlock {
  #grows = null;
  #card = null;

  constructor(block, key, open, cards) {
    this.element = h("div.block");
    if (block.type === "text") {
      this.#grows = new GrowingText(block.text);
      this.element.append(this.#grows.element);
    } else if (block.type === "thinking") {
      this.#grows = new GrowingText(block.thinking);
      this.element.append(thought(key, open, this.#grows.element));
    } else {
      const shown = stored(block, key, open, cards);
      if (shown) this.element.append(shown);
      this.#card = cards.get(block.id) ?? null;
    }
    this.isText = block.type === "text";
  }

  add(kind, value) {
    if (kind === "text" || kind === "thinking") this.#grows?.add(value);
    else if (kind === "input_json") this.#card?.type(value);
  }

  /** It is whole. `html`: of a text. */
  close(html) {
    this.#grows?.flush();
    if (this.isText && typeof html === "string") this.element.replaceChildren(markdown(html));
    if (!this.isText && this.#grows && !this.#grows.element.textContent) this.element.replaceChildren(); // not told
  }
}
