/**
 * What was spent, from the ledger: for operators everybody's, for others their own.
 * Rule: each drawing has its figures beside it as a table, and all of them can be had as CSV.
 */

import { Problem, json, request } from "./api.js";
import { compact, h, money, percent, shares, svg, whole } from "./dom.js";
import { bar } from "./turn.js";

const NAMES = { day: "Day", owner: "Owner", model: "Model", agent: "Agent", kind: "Kind" };
const WARMING = ["park", "refresh", "prewarm"];

/** Shows it in `place`; `config`: of the server. */
export class SpendView {
  #by = "day";
  #owner = "";
  #loads = 0;

  constructor(place, config) {
    this.place = place;
    this.config = config;
    this.groups = Object.keys(NAMES).filter((name) => name !== "owner" || config.operator);
    this.body = h("div", { "aria-live": "polite" });
    this.picker = h("select", { "aria-label": "Owner", onchange: () => ((this.#owner = this.picker.value), this.load()) });
  }

  async open() {
    const tabs = h("div.tabs", { role: "group", "aria-label": "Spend by" }, this.groups.map((name) => h("button", {
      type: "button", "data-by": name, "aria-pressed": String(name === this.#by),
      onclick: () => {
        this.#by = name;
        for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.by === name));
        this.load();
      },
    }, NAMES[name])));
    this.place.replaceChildren(
      h("div.spend-head", {}, tabs, h("div.row", {}, this.config.operator ? this.picker : null,
        h("button", { type: "button", onclick: () => this.#save() }, "Save as CSV"))),
      this.body);
    if (this.config.operator) await this.#loadOwners();
    await this.load();
  }

  async #loadOwners() {
    try {
      const { rows } = await json("api/spend?by=owner");
      const names = rows.map((row) => row.key).filter(Boolean);
      this.picker.replaceChildren(h("option", { value: "" }, "Everybody"),
        ...names.map((name) => h("option", { value: name, selected: name === this.#owner }, name)));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
    }
  }

  #query(more = {}) {
    return `api/spend?${new URLSearchParams({ by: this.#by, ...(this.#owner ? { owner: this.#owner } : {}), ...more })}`;
  }

  async load() {
    const load = ++this.#loads;
    try {
      const spend = await json(this.#query());
      if (load === this.#loads) this.#draw(spend);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (load === this.#loads) this.body.replaceChildren(h("p.error", { role: "alert" }, error.message));
    }
  }

  async #save() {
    const response = await request(this.#query({ format: "csv" }));
    const url = URL.createObjectURL(await response.blob());
    h("a", { href: url, download: `spend-by-${this.#by}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  #draw({ rows, total }) {
    const { read, written, uncached, all } = shares(total.usage);
    const lost = Object.values(total.losses).reduce((sum, loss) => sum + Number(loss.cost), 0);
    const warming = WARMING.reduce((sum, kind) => sum + Number(total.by_kind[kind] ?? 0), 0);
    const figure = (label, value, more) => h("div.figure", {}, h("dt", {}, label), h("dd", {}, value, more ? h("small", {}, more) : null));
    this.body.replaceChildren(
      h("dl.figures", {},
        figure("Spent", money(total.total), `${whole(total.calls)} calls${total.unpriced ? `, ${whole(total.unpriced)} without a price` : ""}`),
        figure("From the cache", percent(read, all), `${compact(all)} tokens in`),
        figure("Lost to misses", money(lost), `${whole(count(total.losses))} calls`),
        figure("Kept warm while waiting", money(warming), "parks, refreshes, prewarms")),
      bar([["read", read], ["written", written], ["uncached", uncached]],
        `Input: ${whole(read)} tokens read from the cache, ${whole(written)} written, ${whole(uncached)} uncached`),
      h("p.legend", {}, h("i.read"), `read ${compact(read)}`, h("i.written"), `written ${compact(written)}`, h("i.uncached"), `uncached ${compact(uncached)}`),
      rows.length ? "" : h("p.muted", {}, "Nothing has been spent yet."),
      this.#section(`Spend by ${NAMES[this.#by].toLowerCase()}`, rows.length ? [
        this.#by === "day" ? columns(rows, Math.max(280, this.body.clientWidth)) : null, this.#table(rows)] : null),
      this.#section("Misses by cause", Object.keys(total.losses).length ? [losses(total.losses)] : [h("p.muted", {}, "None. Everything that could be read from the cache was.")]),
      this.#section("By kind of call", [kinds(total)]));
  }

  #section(title, content) {
    return content ? h("section", {}, h("h3", {}, title), ...content.filter(Boolean)) : "";
  }

  #table(rows) {
    const most = Math.max(...rows.map((row) => Number(row.total)), 1e-9);
    const shown = this.#by === "day" ? rows.toReversed() : rows.toSorted((a, b) => Number(b.total) - Number(a.total));
    return table([NAMES[this.#by], "Spent", "", "Calls", "Hit rate", "Tokens in", "Tokens out", "Lost to misses"], shown.map((row) => {
      const { read, all } = shares(row.usage);
      return [row.key ?? "–", money(row.total), share(Number(row.total) / most), whole(row.calls), percent(read, all),
        compact(all), compact(row.usage.output), lostOf(row)];
    }));
  }
}

const count = (losses) => Object.values(losses).reduce((sum, loss) => sum + loss.calls, 0);

function lostOf(row) {
  const lost = Object.values(row.losses).reduce((sum, loss) => sum + Number(loss.cost), 0);
  return lost ? money(lost) : "–";
}

function share(part) {
  const drawing = svg("svg", { class: "share", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawing.append(svg("rect", { x: 0, y: 0, width: Math.max(0.5, 100 * part), height: 6 }));
  return drawing;
}

/** The last 30 days that have calls, as columns, in so many pixels. */
function columns(rows, width) {
  const days = rows.slice(-30);
  const most = Math.max(...days.map((row) => Number(row.total)), 1e-9);
  const height = 170, step = width / Math.max(days.length, 7);
  const drawing = svg("svg", { class: "columns", viewBox: `0 0 ${width} ${height + 22}`, width, height: height + 22, role: "img",
    "aria-label": `Spend by day, at most ${money(most)} in a day; the table below has the figures` });
  drawing.append(svg("line", { x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5 }));
  days.forEach((row, at) => {
    const tall = Math.max(1, (Number(row.total) / most) * (height - 18));
    const lost = Object.values(row.losses).reduce((sum, loss) => sum + Number(loss.cost), 0);
    const bad = Math.min(tall, (lost / most) * (height - 18));
    const x = at * step + step * 0.15, broad = Math.min(step * 0.7, 48);
    drawing.append(svg("rect", { class: "spent", x, y: height - tall, width: broad, height: tall, rx: 2 },
      svg("title", {}, `${row.key}: ${money(row.total)}`)));
    if (bad) drawing.append(svg("rect", { class: "lost", x, y: height - bad, width: broad, height: bad, rx: 2 }));
    if (at % Math.ceil(days.length / (width / 70)) === 0) {
      drawing.append(svg("text", { x: x + broad / 2, y: height + 16 }, (row.key ?? "–").slice(5)));
    }
  });
  drawing.append(svg("text", { class: "top", x: 0, y: 11 }, `${money(most)} at most`));
  return h("figure", {}, drawing, h("figcaption.legend", {}, h("i.spent"), "spent", h("i.lost"), "of it lost to misses"));
}

function losses(all) {
  const rows = Object.entries(all).toSorted(([, a], [, b]) => Number(b.cost) - Number(a.cost));
  const most = Math.max(...rows.map(([, loss]) => Number(loss.cost)), 1e-9);
  return table(["Cause", "Added", "", "Calls", "Tokens"], rows.map(([cause, loss]) =>
    [cause.replaceAll("_", " "), money(loss.cost), share(Number(loss.cost) / most), whole(loss.calls), compact(loss.tokens)]));
}

function kinds(total) {
  const rows = Object.entries(total.by_kind).toSorted(([, a], [, b]) => Number(b) - Number(a));
  const most = Math.max(...rows.map(([, cost]) => Number(cost)), 1e-9);
  return table(["Kind", "Spent", ""], rows.map(([kind, cost]) => [kind, money(cost), share(Number(cost) / most)]));
}

/** A table that scrolls sideways where it must; its first column names the row. */
function table(heads, rows) {
  return h("div.wide", { tabindex: "0", role: "region", "aria-label": `${heads[0]}: figures` }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td"))))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, at) =>
      at === 0 ? h("th", { scope: "row" }, cell) : h("td", {}, cell)))))));
}
