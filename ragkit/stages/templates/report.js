"use strict";
// The table of questions. Texts become text nodes and never markup.
(() => {
  const source = document.getElementById("data");
  if (!source) return;
  const kinds = JSON.parse(source.textContent);
  const form = document.querySelector(".explorer");
  const table = document.querySelector("table.questions");
  const [heads, body] = [table.tHead.rows[0], table.tBodies[0]];
  const [count, more] = [document.getElementById("count"), document.getElementById("more")];
  const field = form.elements;
  const PAGE = 25;
  let shown = PAGE;
  let order = { column: "change", down: false };

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const number = (value) => (value === null ? "—" : value.toFixed(2));
  const signed = (value) =>
    value === null ? "—" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
  const current = () => kinds[Number(field.kind.value)];
  const system = () => Number(field.system.value);
  const change = (row) => {
    const [before, after] = [row.s[current().baseline], row.s[system()]];
    return before === null || after === null ? null : after - before;
  };
  const compared = () => system() !== current().baseline;

  const outcomes = {
    all: ["all questions", () => true],
    better: ["better than the baseline", (row) => change(row) > 0],
    worse: ["worse than the baseline", (row) => change(row) !== null && change(row) < 0],
    same: ["no different", (row) => change(row) === 0],
    zero: ["score 0", (row) => row.s[system()] === 0],
    none: ["without a score", (row) => row.s[system()] === null],
  };

  const fill = (select, options, chosen) => {
    select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
    select.value = chosen;
    select.parentElement.hidden = options.length < 2;
  };

  const choose = () => {
    const kind = current();
    fill(field.system, kind.systems.map((name, i) => [String(i), i === kind.baseline && kind.systems.length > 1 ? `${name} (baseline)` : name]), String(kind.leader));
    fill(field.slice, [["", "every kind"], ...kind.slices.map((name, i) => [String(i), name])], "");
    field.kind.parentElement.hidden = kinds.length < 2;
    outcome();
  };

  const outcome = () => {
    const names = Object.keys(outcomes).filter((name) => compared() || !["better", "worse", "same"].includes(name));
    const before = names.includes(field.outcome.value) ? field.outcome.value : "all";
    fill(field.outcome, names.map((name) => [name, outcomes[name][0]]), before);
  };

  const matches = (row, words) => {
    const text = [row.id, row.doc, row.q, ...(row.ref || []), ...(row.a || []), ...row.pos].join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  };

  const columns = () => {
    const kind = current();
    const mine = { id: "after", title: kind.systems[system()], value: (row) => row.s[system()], text: number };
    if (!compared()) return [mine];
    return [
      { id: "before", title: kind.systems[kind.baseline], value: (row) => row.s[kind.baseline], text: number },
      mine,
      { id: "change", title: "change", value: change, text: signed },
    ];
  };

  const found = () => {
    const words = field.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const slice = field.slice.value;
    const rows = current().rows.filter(
      (row) =>
        outcomes[field.outcome.value][1](row) &&
        (slice === "" || row.in.includes(Number(slice))) &&
        matches(row, words),
    );
    const column = columns().find((c) => c.id === order.column) || columns()[0];
    const worth = (row) => column.value(row);
    return rows.sort((a, b) => {
      const [x, y] = [worth(a), worth(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return order.down ? y - x : x - y;
    });
  };

  const place = (kind, row, i) => {
    if (!row.pos.length || !kind.ranked[i]) return "";
    return row.r[i] === null ? "right passage not found" : `right passage at ${row.r[i]}`;
  };

  const detail = (row) => {
    const kind = current();
    const list = make("dl");
    const add = (term, ...texts) => list.append(make("dt", { textContent: term }), make("dd", {}, texts.filter(Boolean).join(" · ")));
    add("Id", row.id);
    if (row.ref && row.ref.length) add("Reference", ...row.ref);
    add("To be found", row.pos.join(", ") || "nothing: it has no answer in the corpus");
    add("Document", row.doc);
    kind.systems.forEach((name, i) => add(name, number(row.s[i]), place(kind, row, i), row.a && (row.a[i] || "(said nothing)")));
    return make("tr", { className: "detail" }, make("td", { colSpan: columns().length + 1 }, list));
  };

  const line = (row) => {
    const mark = make("span", { className: "mark", textContent: "+" });
    const button = make("button", { type: "button", className: "open" }, mark, row.q);
    button.setAttribute("aria-expanded", "false");
    const element = make("tr", {}, make("td", {}, button));
    for (const column of columns()) {
      const value = column.value(row);
      const mood = column.id !== "change" || !value ? "" : value > 0 ? " gain" : " fall";
      element.append(make("td", { className: `num${mood}`, textContent: column.text(value) }));
    }
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      mark.textContent = open ? "+" : "−";
      if (open) element.nextSibling.remove();
      else element.after(detail(row));
    });
    return element;
  };

  const head = (column) => {
    const sorted = order.column === column.id;
    const arrow = sorted ? (order.down ? " ↓" : " ↑") : "";
    const button = make("button", { type: "button", textContent: column.title + arrow });
    button.addEventListener("click", () => {
      order = { column: column.id, down: sorted ? !order.down : true };
      draw();
    });
    const cell = make("th", { scope: "col", className: "num" }, button);
    if (sorted) cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    return cell;
  };

  const draw = () => {
    const rows = found();
    const kind = current();
    heads.replaceChildren(make("th", { scope: "col", textContent: "Question" }), ...columns().map(head));
    body.replaceChildren(...rows.slice(0, shown).map(line));
    const left = kind.all - kind.rows.length;
    const said = left ? ` (${left.toLocaleString("en")} more, that changed least, are in the run directories only)` : "";
    count.textContent = `${rows.length.toLocaleString("en")} of ${kind.rows.length.toLocaleString("en")} questions${said}`;
    more.hidden = rows.length <= shown;
    more.textContent = `Show ${Math.min(PAGE, rows.length - shown)} more`;
  };

  const redraw = () => {
    shown = PAGE;
    draw();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  field.text.addEventListener("input", redraw);
  form.addEventListener("change", (event) => {
    if (event.target === field.kind) choose();
    if (event.target === field.system) outcome();
    redraw();
  });
  more.addEventListener("click", () => { shown += PAGE; draw(); });
  form.hidden = table.hidden = false;
  choose();
  draw();
})();
