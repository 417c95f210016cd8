/**
 * Puts the parts together: which view is shown, what the keys do, what stands at the top.
 * Rule: the address says what is shown (`#/` a new conversation, `#/c/ID`, `#/spend`), so that going back, reloading
 * and a second tab work.
 */

import { Problem, json, onUnauthorized, patient } from "./api.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { applyTheme, askForToken, confirm, line, settings } from "./dialogs.js";
import { h, money } from "./dom.js";
import { Sidebar } from "./sidebar.js";
import { SpendView } from "./spend.js";

const element = (id) => document.getElementById(id);
const AGENT = "warmline.agent";

class Page {
  constructor(config) {
    this.config = config;
    this.sidebar = new Sidebar({
      onrename: (item) => this.rename(item),
      ondelete: (item) => this.delete(item),
    });
    this.conversation = new Conversation({
      list: element("turns"),
      scroller: element("scroller"),
      onchange: () => this.changed(),
      onnotice: (text) => notice(text),
      onopen: (id) => go(`#/c/${encodeURIComponent(id)}`),
    });
    this.composer = new Composer({
      config,
      send: (message) => this.send(message),
      stop: () => this.conversation.stop(),
      editLast: () => this.editLast(),
    });
    this.spend = new SpendView(element("spend"), config);
    this.wasRunning = false;
    this.drawAgents();
    this.listen();
  }

  listen() {
    window.addEventListener("hashchange", () => this.route());
    document.addEventListener("keydown", (event) => this.key(event));
    element("open-sidebar").addEventListener("click", () => this.drawer(true));
    element("close-sidebar").addEventListener("click", () => this.drawer(false));
    element("shade").addEventListener("click", () => this.drawer(false));
    element("sidebar").addEventListener("click", (event) => event.target.closest("a") && this.drawer(false));
    document.querySelector("a.new").addEventListener("click", () => setTimeout(() => this.composer.focus()));
    element("settings").addEventListener("click", () => settings(this.config.owner));
    element("rename").addEventListener("click", () => this.rename(this.conversation.data.session));
    element("to-end").addEventListener("click", () => this.conversation.toEnd());
    element("skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address is ours
      this.composer.focus();
    });
    // Of a drawer that is closed nothing can be reached; of a sidebar that is beside, everything.
    this.narrow = matchMedia("(max-width: 760px)");
    this.narrow.addEventListener("change", () => this.drawer(false));
    this.drawer(false);
  }

  start() {
    this.sidebar.load();
    this.route();
  }

  // -- what is shown --

  route() {
    const [, view, id] = /^#\/(c|spend)?\/?(.*)$/.exec(location.hash) ?? [];
    const isSpend = view === "spend";
    document.body.dataset.view = isSpend ? "spend" : "chat";
    element("spend-link").toggleAttribute("aria-current", isSpend);
    element("title").textContent = "";
    if (isSpend) {
      this.shown = "spend";
      this.sidebar.mark();
      this.head("Spend", null, null);
      this.spend.open();
      return;
    }
    const wanted = view === "c" && id ? decoded(id) : null;
    if (wanted === this.shown) return this.changed();
    this.shown = wanted;
    this.composer.open(wanted);
    this.sidebar.mark(wanted);
    this.conversation.open(wanted);
    if (!this.narrow.matches) this.composer.focus();
  }

  /** The conversation has changed. */
  changed() {
    if (document.body.dataset.view === "spend") return;
    const { id, data, views, isRunning } = this.conversation;
    document.body.dataset.empty = String(id === null && !views.length);
    const isWaiting = views.at(-1)?.state === "waiting";
    this.composer.running(isRunning, isWaiting);
    this.sidebar.mark(id, data?.session.parent);
    const session = data?.session;
    this.head(session ? session.title || "Untitled" : id ? "" : "New conversation", session?.cost ?? null, session);
    if (this.wasRunning !== isRunning || (session && !this.sidebar.says(session))) this.sidebar.load();
    this.wasRunning = isRunning;
  }

  head(title, cost, session) {
    document.title = title ? `${title} · warmline` : "warmline";
    element("title").textContent = title;
    element("total").textContent = cost === null ? "" : money(cost);
    element("rename").hidden = !session;
    const about = element("about");
    about.replaceChildren(...(session ? [session.agent && this.config.agents.length > 1 ? `${session.agent} · ` : "", session.model] : []));
    if (session?.parent) about.append(" · ", h("a", { href: `#/c/${encodeURIComponent(session.parent)}` }, "branch of another conversation"));
  }

  drawAgents() {
    const { agents } = this.config;
    const kept = localStorage.getItem(AGENT);
    this.agent = agents.some((agent) => agent.name === kept) ? kept : agents[0]?.name;
    const box = element("agents");
    box.hidden = agents.length < 2;
    box.append(...agents.map((agent) => h("label.agent", {},
      h("input", {
        type: "radio", name: "agent", value: agent.name, checked: agent.name === this.agent,
        onchange: () => localStorage.setItem(AGENT, (this.agent = agent.name)),
      }),
      h("span", {}, h("strong", {}, agent.name), h("small", {}, agent.description || agent.model)))));
    if (agents.length === 1) element("welcome-text").textContent = agents[0].description || `You talk to ${agents[0].model}.`;
  }

  drawer(isOpen) {
    document.body.dataset.drawer = String(isOpen);
    element("sidebar").inert = this.narrow.matches && !isOpen;
    element("main").inert = this.narrow.matches && isOpen;
    element("open-sidebar").setAttribute("aria-expanded", String(isOpen));
    if (!this.narrow.matches) return;
    if (isOpen) element("close-sidebar").focus();
    else if (document.activeElement === document.body) element("open-sidebar").focus();
  }

  // -- keys --

  key(event) {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open], [popover]:popover-open")) return;
    const isTyping = event.target.closest("input, textarea, select");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      this.drawer(true);
      this.sidebar.focusSearch();
    } else if (event.key === "Escape") {
      if (this.narrow.matches && document.body.dataset.drawer === "true") this.drawer(false);
      else if (this.conversation.isRunning) this.conversation.stop();
    }
  }

  editLast() {
    const last = this.conversation.views.findLast((view) => view.entry);
    last?.startEdit();
    return Boolean(last);
  }

  // -- what the user does --

  async send(message) {
    const { conversation } = this;
    if (conversation.id === null) {
      const body = { agent: this.agent, key: message.id };
      const made = await patient("api/sessions", { method: "POST", body }, () => notice("Reconnecting…"));
      notice("");
      if (this.shown !== null) throw new Problem(0, "you went elsewhere.");
      this.shown = made.id;
      history.pushState(null, "", `#/c/${encodeURIComponent(made.id)}`);
      conversation.adopt(made.id);
      this.composer.adopt(made.id);
    }
    await conversation.send(message);
    this.sidebar.load();
  }

  async rename(item) {
    const title = await line("Rename", "Title", item.title ?? "");
    if (title === null) return;
    await this.try(() => json(`api/sessions/${encodeURIComponent(item.id)}`, { method: "PATCH", body: { title } }));
    if (item.id === this.conversation.id) this.conversation.load();
  }

  async delete(item) {
    const name = item.title || "Untitled";
    if (!(await confirm("Delete this conversation?", `“${name}” and its answers are deleted for good.`, "Delete"))) return;
    await this.try(() => json(`api/sessions/${encodeURIComponent(item.id)}`, { method: "DELETE" }));
    if (item.id === this.conversation.id) go("#/");
  }

  async try(act) {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      notice(error.message);
    }
    this.sidebar.load();
  }
}

/** What an address names; as it is, where somebody has written it wrongly. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const go = (hash) => (location.hash = hash);

function notice(text) {
  const line = element("notice");
  if (line.textContent !== text) line.textContent = text;
}

applyTheme();
onUnauthorized(askForToken);
try {
  const config = await patient("api/config", {}, () => notice("Reconnecting…"));
  notice("");
  element("simulated").hidden = !config.simulated;
  new Page(config).start();
} catch (error) {
  notice(error.message);
  if (!(error instanceof Problem)) throw error;
}
