// SPDX-License-Identifier: Apache-2.0
// The timeline that moves, the list that follows it, search and details. Everything from the recording is written
// as text, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [TOP, LANE, MARGIN, SLOT, LISTED, LEAST] = [26, 34, 10, 7, 200, 1000];
  const SHAPES = ["M-1.5-5h3v10h-3Z", "M0-6L6 5H-6Z", "M0-8L7 0 0 8-7 0Z"];
  const SIGNS = ["event", "alarm", "verdict"];
  const [FIRST, LONG, COUNT, LANE_OF, FROM, KIND, ALARM, TEXT, BODY, PID] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const zero = BigInt(data.zero), offset = BigInt(data.offset);
  const state = { from: 0, to: data.span, query: "", chosen: -1, verdict: 0 };
  let matching = data.rows.map((_, n) => n), drawn = false, width = 1000;

  // Words

  const odd = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;
  const escaped = (text) => String(text).replace(odd, (sign) => {
    const code = sign.codePointAt(0), short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
    if (short) return short;
    const [letter, digits] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
    return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });

  function iso(at) {
    const whole = zero + offset + BigInt(Math.round(at));
    const second = whole / 1000000000n - (whole < 0n && whole % 1000000000n ? 1n : 0n);
    const date = new Date(Number(second) * 1000);
    if (isNaN(date)) return `${whole}`;
    const rest = String(whole - second * 1000000000n).padStart(9, "0");
    return `${date.toISOString().slice(0, 19)}.${rest}Z`;
  }

  const clock = (at, digits = 3) => iso(at).slice(11, digits ? 20 + digits : 19);

  function long(ns) {
    const units = [[864e11, "d"], [36e11, "h"], [6e10, "min"], [1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
    const [length, unit] = units.find(([one]) => Math.abs(ns) >= one) || [1, "ns"];
    const value = ns / length;
    return `${value >= 100 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${unit}`;
  }

  function made(name, values = {}, ...inner) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
    element.append(...inner);
    return element;
  }

  function shape(name, values, ...inner) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
    element.append(...inner);
    return element;
  }

  // Selection, in the words of the command line

  function parsed(query) {
    const words = query.match(/"[^"]*"|\S+/g) || [], wanted = { words: [], options: [] };
    const names = {
      "-p": "pod", "--pod": "pod", "-n": "namespace", "--namespace": "namespace", "-c": "container",
      "--container": "container", "-l": "label", "--selector": "label", "--pid": "pid", "--sender-pod": "sender",
    };
    for (let n = 0; n < words.length; n++) {
      const word = words[n].replace(/^"|"$/g, ""), name = names[word];
      if (name && n + 1 < words.length) wanted.options.push([name, words[++n].replace(/^"|"$/g, "")]);
      else if (!name) wanted.words.push(word.toLowerCase());
    }
    return wanted;
  }

  function glob(pattern) {
    const source = pattern.replace(/[.+^${}()|\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
    try { return new RegExp(`^${source}$`, "u"); } catch { return /^\b$/; }
  }

  function podMatches(lane, value) {
    if (!lane || lane[1] === null) return false;
    const one = value.replace(/^pods?\//, ""), name = lane[1].split("/").pop();
    return glob(one).test(one.includes("/") ? lane[1] : name);
  }

  function laneMatches([name, value], row) {
    const lane = data.lanes[row[LANE_OF]];
    if (name === "pid") return row[PID] === Number(value);
    if (name === "sender") return podMatches(data.lanes[row[FROM]], value);
    if (!lane) return false;
    if (name === "pod") return podMatches(lane, value);
    if (name === "namespace") return lane[1] !== null && lane[1].includes("/") && glob(value).test(lane[1].split("/")[0]);
    if (name === "container") return lane[2] !== null && glob(value).test(lane[2]);
    return value.split(",").every((pair) => {
      const [key, wanted] = pair.split(/==?/);
      return Object.hasOwn(lane[3], key) && (wanted === undefined || lane[3][key] === wanted);
    });
  }

  function select() {
    const wanted = parsed(state.query), groups = new Map();
    for (const option of wanted.options) {
      const key = option[0] === "label" ? option : option[0];
      groups.set(key, [...(groups.get(key) || []), option]);
    }
    matching = [];
    data.rows.forEach((row, n) => {
      if (![...groups.values()].every((some) => some.some((one) => laneMatches(one, row)))) return;
      const lane = data.lanes[row[LANE_OF]];
      const text = `${data.kinds[row[KIND]]} ${lane ? lane[0] : ""} ${data.texts[row[TEXT]]}`.toLowerCase();
      if (wanted.words.every((word) => text.includes(word))) matching.push(n);
    });
  }

  // The picture

  const scale = () => (width - 2 * MARGIN) / Math.max(1, state.to - state.from);
  const xOf = (at) => MARGIN + (at - state.from) * scale();
  const inside = (x) => Math.min(width + 20, Math.max(-20, x));

  function step(span) {
    const rough = span / Math.max(2, Math.floor(width / 130));
    const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
    return [1, 2, 5, 10].map((n) => n * power).find((one) => one >= rough);
  }

  function drawAxis(into, height) {
    const each = step(state.to - state.from);
    const digits = each >= 1e9 ? 0 : each >= 1e6 ? 3 : each >= 1e3 ? 6 : 9;
    const early = Number((zero + offset) % BigInt(each));  // ticks are at round times of day
    for (let at = Math.ceil((state.from + early) / each) * each - early; at <= state.to; at += each) {
      const x = xOf(at);
      into.append(shape("path", { class: "grid", d: `M${x.toFixed(1)} 20V${height}` }));
      if (x > 45 && x < width - 45) into.append(shape("text", { class: "tick middle", x: x.toFixed(1), y: 14 }, clock(at, digits)));
    }
    for (const [begin, end] of [[-20, xOf(0)], [xOf(data.span), width + 20]]) {
      if (end > 0 && begin < width) {
        into.append(shape("rect", { class: "unwatched", x: begin, y: 0, width: Math.max(0, end - begin), height }));
      }
    }
  }

  // The lanes in sight; on paper all.
  function inSight(shown) {
    const box = byId("timeline"), paper = matchMedia("print").matches;
    const first = Math.floor((box.scrollTop - TOP) / LANE) - 1, last = Math.ceil((box.scrollTop + box.clientHeight - TOP) / LANE) + 1;
    return paper ? [0, shown] : [Math.max(0, first), Math.min(shown, last)];
  }

  function drawLanes(into, [first, last]) {
    for (let n = first; n < last; n++) {
      const [title, , , , life] = data.lanes[n], y = TOP + LANE * n;
      into.append(shape("rect", { class: "lane", x: 0, y, width, height: LANE - 1 }));
      if (life) {
        const begin = inside(xOf(life[0])), end = inside(xOf(life[1] === null ? data.span : life[1]));
        if (end > 0 && begin < width) {
          into.append(shape("rect", { class: "life", x: begin, y: y + 16, width: Math.max(1, end - begin), height: 13, rx: 3 }));
        }
      }
      into.append(shape("text", { class: "title", x: 14, y: y + 12 }, title));
    }
  }

  function drawMarks(into, [low, high]) {
    const slots = new Map(), arrows = new Map();
    for (const n of matching) {
      const row = data.rows[n], x = xOf(row[FIRST]), end = x + row[LONG] * scale();
      if (end < 0 || x > width || row[LANE_OF] < low || row[LANE_OF] >= high) continue;
      const slot = `${row[LANE_OF]} ${row[ALARM]} ${Math.floor(x / SLOT)}`, mark = slots.get(slot);
      if (mark) {
        mark.count += row[COUNT];
        mark.end = Math.max(mark.end, end);
        mark.chosen ||= n === state.chosen;
      } else {
        slots.set(slot, { n, x, end, row, count: row[COUNT], chosen: n === state.chosen });
      }
      if (row[FROM] >= 0 && arrows.size < 300) arrows.set(`${slot} ${row[FROM]}`, [x, row]);
    }
    for (const [x, row] of arrows.values()) {
      const begin = TOP + LANE * row[FROM] + 22, down = row[LANE_OF] > row[FROM];
      const end = TOP + LANE * row[LANE_OF] + 22 + (down ? -6 : 6), back = down ? -4 : 4;
      into.append(shape("path", { class: "arrow", d: `M${x.toFixed(1)} ${begin}V${end}m-3 ${back}l3 ${-back} 3 ${back}` }));
    }
    for (const mark of [...slots.values()].sort((a, b) => a.row[ALARM] - b.row[ALARM])) {
      const y = TOP + LANE * mark.row[LANE_OF] + 22, sign = SIGNS[mark.row[ALARM]];
      if (mark.end - mark.x > 3) {
        const begin = inside(mark.x);
        into.append(shape("rect", { class: `run ${sign}`, x: begin, y: y - 3, width: Math.max(1, inside(mark.end) - begin), height: 6 }));
      }
      const values = { class: mark.chosen ? `${sign} chosen` : sign, transform: `translate(${inside(mark.x).toFixed(1)} ${y})` };
      into.append(shape("path", { ...values, d: SHAPES[mark.row[ALARM]], "data-row": mark.n }));
    }
    data.marks.forEach(([at, lane], n) => {
      const x = xOf(at);
      if (lane < low || lane >= high || x < 0 || x > width) return;
      const sign = n + 1 === state.verdict ? "verdict chosen" : "verdict";
      into.append(shape("path", { class: sign, transform: `translate(${x.toFixed(1)} ${TOP + LANE * lane + 22})`, d: SHAPES[2] }));
    });
  }

  function draw() {
    drawn = false;
    const shown = data.lanes.length, height = TOP + LANE * Math.max(1, shown);
    width = Math.max(300, byId("timeline").clientWidth);
    const picture = byId("picture"), into = shape("g", { id: "drawing" });
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawAxis(into, height);
    drawLanes(into, inSight(shown));
    drawMarks(into, inSight(shown));
    for (const [begin, end, text] of data.spans) {
      const left = inside(xOf(begin)), right = inside(xOf(end));
      if (right < 0 || left > width) continue;
      into.append(shape("rect", { class: "lost", x: left, y: 20, width: Math.max(2, right - left), height: height - 20 }, shape("title", {}, escaped(text))));
    }
    byId("drawing").replaceWith(into);
  }

  // The list

  function list() {
    const seen = matching.filter((n) => data.rows[n][FIRST] <= state.to && data.rows[n][FIRST] + data.rows[n][LONG] >= state.from);
    let shown = seen;
    if (seen.length > LISTED) {
      const at = Math.max(0, seen.indexOf(state.chosen));
      const begin = Math.min(seen.length - LISTED, Math.max(0, at - LISTED / 2));
      shown = seen.slice(begin, begin + LISTED);
    }
    const table = byId("events"), held = table.contains(document.activeElement) ? document.activeElement.dataset.row : undefined;
    table.tBodies[0].replaceChildren(...shown.map(line));
    if (held !== undefined) table.querySelector(`button[data-row="${held}"]`)?.focus({ preventScroll: true });
    const count = seen.reduce((sum, n) => sum + data.rows[n][COUNT], 0);
    byId("listed").textContent = `${count.toLocaleString("en")} events` +
      (seen.length === count ? "" : ` in ${seen.length.toLocaleString("en")} rows`) +
      (shown.length < seen.length ? `; ${shown.length} are listed: zoom in for the others` : "");
    byId("view").textContent = `${clock(state.from)} to ${clock(state.to)} (${long(state.to - state.from)})`;
  }

  function line(n) {
    const row = data.rows[n], lane = data.lanes[row[LANE_OF]];
    const button = made("button", { type: "button", "data-row": n }, escaped(data.texts[row[TEXT]]));
    const what = row[ALARM] ? made("td", {}, made("span", { class: "sign", title: "stands out" }, "▲"), " ", button) : made("td", {}, button);
    const marks = [row[ALARM] ? "alarm" : "", n === state.chosen ? "chosen" : ""].join(" ").trim();
    return made("tr", marks ? { class: marks } : {}, made("td", {}, clock(row[FIRST])), made("td", {}, escaped(data.kinds[row[KIND]])),
      made("td", {}, lane ? lane[0] : "–"), what);
  }

  // The view

  let timer = 0;
  function changed(keep) {
    if (!drawn) {
      drawn = true;
      requestAnimationFrame(draw);
    }
    clearTimeout(timer);
    timer = setTimeout(() => { list(); if (!keep) remember(); }, 80);
  }

  function look(from, to, keep) {
    const span = Math.min(data.span * 1.1, Math.max(LEAST, to - from));
    const middle = (from + to) / 2, edge = data.span * 0.05;
    state.from = Math.min(Math.max(middle - span / 2, -edge), data.span + edge - span);
    state.to = state.from + span;
    changed(keep);
  }

  const everything = () => look(-data.span * 0.02, data.span * 1.02);
  const pan = (part) => look(state.from + (state.to - state.from) * part, state.to + (state.to - state.from) * part);

  function zoom(factor, at = (state.from + state.to) / 2) {
    const span = Math.max(LEAST, (state.to - state.from) * factor), part = (at - state.from) / (state.to - state.from);
    look(at - span * part, at + span * (1 - part));
  }

  function remember() {
    const parts = [`t=${(state.from / 1e9).toFixed(9)}..${(state.to / 1e9).toFixed(9)}`];
    if (state.query) parts.push(`q=${encodeURIComponent(state.query)}`);
    if (state.chosen >= 0) parts.push(`e=${state.chosen}`);
    if (state.verdict) parts.push(`v=${state.verdict}`);
    history.replaceState(null, "", `#${parts.join("&")}`);
  }

  function recall() {
    const found = new Map(location.hash.slice(1).split("&").map((pair) => {
      const at = pair.indexOf("=");
      try { return [pair.slice(0, at), decodeURIComponent(pair.slice(at + 1))]; } catch { return ["", ""]; }
    }));
    const times = /^(-?[\d.]+)\.\.(-?[\d.]+)$/.exec(found.get("t") || "");
    if (found.has("q") || found.has("pod")) {
      const pod = found.get("pod");
      state.query = `${found.get("q") || ""}${pod ? ` -p ${pod}` : ""}`.trim();
      byId("search").value = state.query;
      select();
    }
    if (times) look(Number(times[1]) * 1e9, Number(times[2]) * 1e9, true);
    const verdict = Number(found.get("v") || 0), row = Number(found.get("e") ?? -1);
    if (verdict && !times) showVerdict(verdict);
    else if (found.has("e") && data.rows[row]) open(row, Boolean(times));
  }

  function showVerdict(number) {
    const mark = data.marks[number - 1], rows = data.evidence[number - 1] || [];
    if (!mark) return;
    state.verdict = number;
    const times = [mark[0], ...rows.map((n) => data.rows[n][FIRST])];
    const [begin, end] = [Math.min(...times), Math.max(...times)], margin = Math.max(1e6, (end - begin) * 0.3);
    look(begin - margin, end + margin);
    byId("timeline").scrollTop = Math.max(0, LANE * mark[1] - 60);
    byId("timeline").focus();
  }

  // Details

  const whole = (text, below) => text.replace(/\{"\$":(\d+)\}/g, (_, n) => Number(n) < below ? whole(data.parts[n], Number(n)) : "null");

  function body(n) {
    const number = data.rows[n][BODY];
    return number < 0 ? null : whole(data.bodies[number], data.parts.length);
  }

  function json(n) {
    const row = data.rows[n], inner = body(n), at = zero + BigInt(row[FIRST]);
    const before = `{"kind":${JSON.stringify(data.kinds[row[KIND]])},"time":"${iso(row[FIRST])}","boot_ns":${at},"node":${JSON.stringify(data.node)}`;
    const folded = row[COUNT] > 1 ? `,"folded":{"count":${row[COUNT]},"until":"${iso(row[FIRST] + row[LONG])}"}` : "";
    return `${before}${inner === null ? "" : `,${inner.slice(1, -1)}`}${folded}}`;
  }

  const gauge = (value, most) => {
    const filled = most > 0 ? Math.min(24, Math.max(value ? 1 : 0, Math.round(24 * value / most))) : 0;
    return "█".repeat(filled) + "░".repeat(24 - filled);
  };

  function size(bytes) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let value = bytes;
    while (Math.abs(value) >= 1023.95 && units.length > 1) { value /= 1024; units.shift(); }
    return `${value >= 100 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${units[0]}`;
  }

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const named = (name) => name.replace(/_bytes$/, "").replaceAll("_", " ");
  const place = (pod, container) => [pod && (pod.name ? `${pod.namespace ? `${pod.namespace}/` : ""}${pod.name}` : pod.uid), container && (container.name || container.id.slice(0, 12))].filter(Boolean).join(" ") || "–";

  // By the shape of a value, never by the kind of event: new probes need nothing here.
  function* lines(name, value, depth) {
    if (isObject(value) && "pid" in value && "tid" in value) yield* process(name, value, depth);
    else if (isObject(value) && "address" in value) {
      const host = value.address === null ? "" : value.address.includes(":") ? `[${value.address}]` : value.address;
      yield [depth, name, `${host}${host ? `:${value.port ?? "–"}` : ""} ${value.pod ? place(value.pod) : ""}`.trim()];
    } else if (isObject(value) && Array.isArray(value.free)) {
      yield [depth, `node ${value.node}`, value.zone];
      const most = Math.max(0, ...value.free);
      for (const [order, blocks] of value.free.entries()) yield [depth + 1, `order ${order}`, `${gauge(blocks, most)} ${blocks.toLocaleString("en")}`];
    } else if (isObject(value)) {
      yield [depth, name, ""];
      yield* members(value, depth + 1);
    } else if (Array.isArray(value) && value.some(isObject)) {
      yield [depth, name, ""];
      for (const one of value) yield* lines("", one, depth + 1);
    } else yield [depth, name, scalar(name, value)];
  }

  function* members(value, depth) {
    for (const [name, inner] of Object.entries(value)) {
      if (name === "start_boot_ns" || (name === "limit" && "depth" in value)) continue;
      if (name === "depth" && value.limit) {
        yield [depth, name, value.depth === null ? `– of ${value.limit}` : `${gauge(value.depth, value.limit)} ${value.depth} of ${value.limit}`];
      } else yield* lines(name, inner, depth);
    }
  }

  function* process(name, value, depth) {
    yield [depth, name, `${value.comm ?? "–"}[${value.pid}]`];
    yield [depth + 1, "executable", value.exe];
    yield [depth + 1, "arguments", value.argv && value.argv.join(" ")];
    yield [depth + 1, "uid", value.uid];
    if (value.tid !== value.pid) yield [depth + 1, "thread", value.tid];
    yield [depth + 1, "pid in pod", value.pid_in_pod];
    yield [depth + 1, "pod", place(value.pod, value.container)];
    const told = new Set(["pid", "tid", "comm", "exe", "argv", "uid", "pid_in_pod", "start_boot_ns", "pod", "container", "ancestry"]);
    for (const [key, inner] of Object.entries(value)) if (!told.has(key)) yield* lines(key, inner, depth + 1);
    const chain = [...(value.ancestry || [])].reverse().concat([{ comm: value.comm, pid: value.pid }]);
    for (const [n, one] of chain.length > 1 ? chain.entries() : []) {
      yield [depth + 1, n ? "" : "ancestry", `${n ? `${"   ".repeat(n - 1)}└─ ` : ""}${one.comm ?? "–"}[${one.pid}]`];
    }
  }

  function scalar(name, value) {
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value === "number") return name.includes("bytes") ? `${size(value)} (${value.toLocaleString("en")})` : value.toLocaleString("en");
    return Array.isArray(value) ? value.join(" ") : value;
  }

  function described(n) {
    const row = data.rows[n], inner = body(n), found = [[0, "time", `${iso(row[FIRST])}`]];
    if (row[COUNT] > 1) found.push([0, "until", iso(row[FIRST] + row[LONG])], [0, "events", `${row[COUNT].toLocaleString("en")}; the first is shown`]);
    if (inner === null) return [...found, [0, "details", "are not in this page, for its size: ktrace replay shows them"]];
    const { pod, container, ...rest } = JSON.parse(inner);
    return [...found, [0, "pod", place(pod, container)], ...members(rest, 0)];
  }

  let back = null;
  function open(n, keep) {
    const row = data.rows[n], dialog = byId("details"), lane = data.lanes[row[LANE_OF]];
    state.chosen = n;
    if (row[FIRST] < state.from || row[FIRST] > state.to) {
      const half = (state.to - state.from) / 2;
      look(row[FIRST] - half, row[FIRST] + half, keep);
    } else changed(keep);
    byId("details-title").textContent = escaped(data.texts[row[TEXT]]);
    byId("details-where").textContent = lane ? lane[0] : "";
    byId("details-lines").replaceChildren(...described(n).map(([depth, name, value]) => made("div", { class: `line in${Math.min(4, depth)}` },
      made("span", { class: "name" }, escaped(named(name))), made("span", { class: "value" }, value === null || value === undefined ? "–" : escaped(value)))));
    const told = data.evidence.flatMap((rows, at) => rows.includes(n) ? [at + 1] : []);
    byId("details-links").replaceChildren(...told.flatMap((number) => {
      const link = made("a", { href: `#v=${number}` }, `evidence of verdict ${number}`);
      link.addEventListener("click", (event) => { event.preventDefault(); shut(); byId(`v=${number}`).scrollIntoView(); showVerdict(number); });
      return [link, " "];
    }));
    if (!dialog.open) {
      back = document.activeElement;
      dialog.showModal();
    }
  }

  function shut() {
    byId("details").close();
    const again = document.querySelector(`button[data-row="${state.chosen}"]`) || back;
    if (again) again.focus();
  }

  function next(by) {
    const at = matching.indexOf(state.chosen) + by;
    if (at >= 0 && at < matching.length) open(matching[at]);
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = made("textarea", {}), within = byId("details").open ? byId("details") : document.body;
      field.value = text;
      within.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    byId("said").textContent = "copied";
  }

  const asText = (n) => [data.texts[data.rows[n][TEXT]], ...described(n).map(([depth, name, value]) => `${"  ".repeat(depth)}${named(name).padEnd(20)} ${value ?? "–"}`)].map(escaped).join("\n");

  function copyVerdict(number, as) {
    const told = data.told[number - 1];
    if (as === "json" && told) return copy(told);
    const lines = [...byId(`v=${number}`).querySelectorAll("h3, p:not(.scripted), li")].map((one) => one.textContent.replace(/\s+/g, " ").trim());
    return copy(lines.join("\n"));
  }

  // Mouse, keys, touch

  const timeline = byId("timeline"), pointers = new Map();
  let moved = false;
  const timeAt = (x) => state.from + (x - timeline.getBoundingClientRect().left - MARGIN) / scale();

  function nearest(event) {
    const marked = event.target.closest("[data-row]");
    if (marked) return Number(marked.dataset.row);
    const box = byId("picture").getBoundingClientRect();
    const lane = Math.floor((event.clientY - box.top - TOP) / LANE), at = timeAt(event.clientX);
    let best = -1, least = 12 / scale();
    for (const n of matching) {
      const row = data.rows[n];
      const away = Math.max(row[FIRST] - at, at - row[FIRST] - row[LONG], 0);
      if (row[LANE_OF] === lane && away < least) [best, least] = [n, away];
    }
    return best;
  }

  timeline.addEventListener("pointerdown", (event) => {
    moved = false;
    pointers.set(event.pointerId, event.clientX);
  });
  timeline.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = pointers.get(event.pointerId), others = [...pointers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const other = others[0][1], was = Math.abs(before - other), is = Math.abs(event.clientX - other);
      if (was > 5 && is > 5) zoom(was / is, timeAt((event.clientX + other) / 2));
      moved = true;
    } else if (moved || Math.abs(event.clientX - before) > 3) {
      if (!moved) timeline.setPointerCapture(event.pointerId);
      moved = true;
      const by = (before - event.clientX) / scale();
      look(state.from + by, state.to + by);
    } else return;
    pointers.set(event.pointerId, event.clientX);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    timeline.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  timeline.addEventListener("click", (event) => {
    const n = moved ? -1 : nearest(event);
    if (n >= 0) open(n);
  });
  timeline.addEventListener("dblclick", (event) => zoom(0.4, timeAt(event.clientX)));
  timeline.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300))), timeAt(event.clientX));
    else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX || event.deltaY) / width);
    else return;
    event.preventDefault();
  }, { passive: false });
  timeline.addEventListener("keydown", (event) => {
    const act = {
      ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6),
      0: everything, Home: () => pan(-state.from / (state.to - state.from)), End: () => pan((data.span - state.to) / (state.to - state.from)),
      Enter: () => {
        const n = matching.find((one) => data.rows[one][FIRST] + data.rows[one][LONG] >= state.from && data.rows[one][FIRST] <= state.to);
        if (n !== undefined) open(n);
      },
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  byId("events").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-row]");
    if (button) open(Number(button.dataset.row));
  });
  byId("events").addEventListener("keydown", (event) => {
    const to = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const row = to && event.target.closest("tr")[to];
    if (!row) return;
    event.preventDefault();
    row.querySelector("button").focus();
  });
  byId("search").addEventListener("input", (event) => {
    state.query = event.target.value.trim();
    select();
    changed();
  });
  const pressed = {
    in: () => zoom(0.6), out: () => zoom(1 / 0.6), left: () => pan(-0.3), right: () => pan(0.3), all: everything, close: shut,
    next: () => next(1), previous: () => next(-1), "copy-text": () => copy(asText(state.chosen)), "copy-json": () => copy(json(state.chosen)),
    theme: () => {
      const root = document.documentElement, dark = root.classList.contains("dark") ||
        (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
      root.classList.toggle("dark", !dark);
      root.classList.toggle("light", dark);
    },
  };
  for (const [id, act] of Object.entries(pressed)) byId(id).addEventListener("click", act);
  for (const button of document.querySelectorAll("button.show")) {
    button.addEventListener("click", () => { showVerdict(Number(button.dataset.verdict)); timeline.scrollIntoView({ block: "center" }); });
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", () => copyVerdict(Number(button.dataset.verdict), button.dataset.as));
  }
  byId("details").addEventListener("cancel", (event) => { event.preventDefault(); shut(); });
  timeline.addEventListener("scroll", () => changed(true));
  addEventListener("beforeprint", draw);
  addEventListener("hashchange", recall);
  new ResizeObserver(() => changed(true)).observe(timeline);

  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  timeline.classList.add("live");
  timeline.tabIndex = 0;
  timeline.setAttribute("role", "group");
  timeline.setAttribute("aria-label", "Timeline: arrows move, plus and minus zoom, 0 shows all, Enter opens the first event");
  look(-data.span * 0.02, data.span * 1.02, true);
  recall();
})();
