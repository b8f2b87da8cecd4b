"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  // All text goes in as textContent: nothing of the data is ever parsed as HTML.
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // ---- Tables: a click on a heading sorts by it, greatest first and then the other way round.
  const value = (row, column) => {
    const text = row.cells[column].textContent.replaceAll(",", "").replace("\u2212", "-");
    return [text, parseFloat(text)];
  };
  const sortTable = (head) => {
    const table = head.closest("table");
    const direction = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [[s, x], [t, y]] = [value(a, head.cellIndex), value(b, head.cellIndex)];
      if (Number.isNaN(x) && Number.isNaN(y)) return -sign * s.localeCompare(t);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    });
    table.tBodies[0].append(...rows);
  };
  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sortTable(button.closest("th")));
  }

  // A link to a closed block opens it.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();

  // A closed block would be missing on paper.
  window.addEventListener("beforeprint", () => {
    for (const block of document.querySelectorAll("details")) block.open = true;
  });

  // ---- The trajectory viewer
  const root = document.getElementById("viewer");
  if (!root) return;
  const { groups, top, base, examples } = read("tabom-view");
  const STEPS_PER_SECOND = 2;

  // step: how many model calls are done, so that slots with a smaller step are visible.
  const state = { group: 0, runs: [0], step: 0, timer: null, speed: 1 };
  let ramp = [];

  const readRamp = () => {
    const text = getComputedStyle(document.documentElement).getPropertyValue("--ramp");
    ramp = text.trim().split(/\s+/).map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  };
  const colour = (entropy) => {
    const at = Math.min(Math.max(entropy / top, 0), 1) * (ramp.length - 1);
    const i = Math.min(Math.floor(at), ramp.length - 2);
    const rgb = ramp[i].map((c, k) => Math.round(c + (at - i) * (ramp[i + 1][k] - c)));
    const [r, g, b] = rgb.map((c) => (c / 255) ** 2.2);
    const isLight = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2;
    return { fill: `rgb(${rgb.join(" ")})`, ink: isLight ? "#14171a" : "#ffffff" };
  };

  // A word's leading space is left out, a token of spaces is shown as such.
  const shown = (token) =>
    token.replace(/^ +$/, (s) => "␣".repeat(s.length)).replace(/^ (?=\S)/, "")
      .replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";
  const specialName = (token) => {
    const name = token.replace(/^[<[|]+|[>\]|]+$/g, "");
    return /^end|eot/i.test(name) ? "end" : name;
  };
  const nats = (value) => (value === null || value === undefined ? "unknown" : `${value.toFixed(2)} nats`);
  const lastStep = () =>
    Math.max(...state.runs.map((run) => 1 + Math.max(-1, ...example(run).step)));
  const example = (run) => examples[groups[state.group].runs[run].example];

  const buildPanel = (side) => {
    const group = groups[state.group];
    const view = group.runs[state.runs[side]];
    const data = example(state.runs[side]);
    const choice = make("select", { ariaLabel: "Arm" });
    group.runs.forEach((run, i) => {
      choice.append(make("option", { value: i, textContent: examples[run.example].arm || "?" }));
    });
    choice.value = state.runs[side];
    choice.addEventListener("change", () => { state.runs[side] = Number(choice.value); rebuild(); });
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = `var(--${view.colour})`;
    swatch.style.margin = "0";
    const verdict = make("span", { className: "verdict" });
    if (typeof data.is_correct === "boolean") {
      verdict.textContent = data.is_correct ? "✓ right" : "✗ wrong";
      verdict.classList.add(data.is_correct ? "right" : "wrong");
    }
    const slots = make("div", { className: "slots" });
    if (data.tokens.length > 32) slots.classList.add("many");
    else if (data.tokens.every((token, n) => view.special[n] || token.length < 3)) slots.classList.add("letters");
    const boxes = data.tokens.map((token, n) => {
      const text = make("span", { className: "token" });
      const isSpecial = view.special[n];
      text.textContent = isSpecial ? specialName(token) : shown(token);
      if (isSpecial) text.classList.add("special");
      const box = make("div", { className: "slot" }, text, make("span", { className: "number", textContent: data.step[n] }));
      slots.append(box);
      return box;
    });
    const line = make("p", { className: "state", ariaLive: "polite" });
    const panel = make("div", {}, make("div", { className: "panel-head" }, swatch, choice, verdict), slots, line);
    return { panel, draw: () => drawPanel(data, view, boxes, line) };
  };

  const drawPanel = (data, view, boxes, line) => {
    const field = (data.field || [])[state.step];
    const open = [];
    boxes.forEach((box, n) => {
      const isVisible = data.step[n] >= 0 && data.step[n] < state.step;
      const entropy = isVisible ? data.entropy[n] : field ? field[n] : null;
      if (!isVisible && field && field[n] !== null) open.push(field[n]);
      box.classList.toggle("masked", !isVisible);
      box.classList.toggle("fresh", isVisible && data.step[n] === state.step - 1);
      const wanted = isVisible ? view.expected[n] : null;
      box.classList.toggle("differs", wanted !== null);
      if (wanted !== null) box.dataset.expected = shown(wanted);
      const paint = entropy === null ? { fill: "transparent", ink: "inherit" } : colour(entropy);
      box.classList.toggle("known", entropy !== null);
      box.style.backgroundColor = isVisible ? paint.fill : "transparent";
      box.style.color = isVisible ? paint.ink : "inherit";
      box.style.setProperty("--now", paint.fill);
      box.title = isVisible
        ? `slot ${n} · ${JSON.stringify(data.tokens[n])} · step ${data.step[n]} · ${nats(entropy)} at reveal` +
          (wanted === null ? "" : ` · reference has ${shown(wanted)}`)
        : `slot ${n} · masked` + (field ? ` · ${nats(entropy)} now` : "");
    });
    const masked = boxes.filter((box) => box.classList.contains("masked")).length;
    line.textContent = `${boxes.length - masked} of ${boxes.length} slots revealed`;
    if (open.length) {
      const mean = open.reduce((a, b) => a + b, 0) / open.length;
      const variance = open.reduce((a, b) => a + (b - mean) ** 2, 0) / open.length;
      line.textContent += ` · masked: mean ${mean.toFixed(2)} nats, variance ${variance.toFixed(2)}`;
    }
  };

  let panels = [];
  const play = make("button", { type: "button", className: "play" });
  const slider = make("input", { type: "range", min: 0, ariaLabel: "Step" });
  const output = make("output");
  const speed = make("select", { ariaLabel: "Speed" });
  for (const value of [0.5, 1, 2, 4]) speed.append(make("option", { value, textContent: `${value} ×` }));
  speed.value = 1;
  const choice = make("select", { ariaLabel: "Prompt" });
  // Which prompts are offered: all, or those on which the arms differ or fail.
  const rightness = (group) => group.runs.map((run) => examples[run.example]);
  const ofBase = (group) => rightness(group).find((one) => one.arm === base);
  const others = (group) => rightness(group).filter((one) => one.arm !== base);
  const kinds = [
    ["all prompts", () => true],
    ["base wrong, an arm right", (g) => ofBase(g)?.is_correct === false && others(g).some((one) => one.is_correct)],
    ["base right, an arm wrong", (g) => ofBase(g)?.is_correct && others(g).some((one) => one.is_correct === false)],
    ["all wrong", (g) => rightness(g).every((one) => one.is_correct === false)],
  ];
  const members = kinds.map(([, holds]) => groups.map((_, i) => i).filter((i) => holds(groups[i])));
  const kind = make("select", { ariaLabel: "Which prompts" });
  kinds.forEach(([name], i) => {
    if (members[i].length) kind.append(make("option", { value: i, textContent: `${name} (${members[i].length})` }));
  });
  const offer = () => {
    choice.replaceChildren(...members[kind.value].map((i) => {
      const text = groups[i].prompt.replace(/\s+/g, " ");
      const short = text.length > 60 ? text.slice(0, 59) + "…" : text;
      return make("option", { value: i, textContent: (groups[i].set ? groups[i].set + ": " : "") + short });
    }));
  };
  const move = (by) => {
    const there = members[kind.value];
    const at = Math.max(there.indexOf(state.group), 0) + by;
    state.step = 0;
    choose(there[(at + there.length) % there.length]);
  };
  const prompt = make("dl", { className: "prompt" });
  const area = make("div", { className: "panels" });
  const bar = make("i");
  const scale = make("div", { className: "scale" },
    make("span", { textContent: "certain, 0" }), bar,
    make("span", { textContent: `${top.toFixed(2)} nats, unsure` }),
    make("span", { className: "hint" },
      ...[["← →", "step"], ["space", "play"], ["↑ ↓", "prompt"]].map(([key, what]) =>
        make("span", {}, make("kbd", { textContent: key }), " " + what))));
  root.append(
    make("div", { className: "controls" }, kind, choice, play, slider, output, make("label", { textContent: "speed " }, speed)),
    prompt, area, scale);

  const draw = () => {
    const last = lastStep();
    state.step = Math.min(Math.max(state.step, 0), last);
    slider.max = last;
    slider.value = state.step;
    output.textContent = `step ${state.step} of ${last}`;
    play.textContent = state.timer ? "❚❚ pause" : "▶ play";
    for (const panel of panels) panel.draw();
  };
  const rebuild = () => {
    const group = groups[state.group];
    const reference = example(state.runs[0]).reference;
    choice.value = state.group;
    const rows = [["prompt", group.prompt], ["reference", reference]].filter((row) => row[1]);
    prompt.replaceChildren(...rows.flatMap(([name, text]) =>
      [make("dt", { textContent: name }), make("dd", { textContent: text })]));
    panels = state.runs.map((_, side) => buildPanel(side));
    area.replaceChildren(...panels.map((panel) => panel.panel));
    draw();
  };
  const paintScale = () => {
    readRamp();
    bar.style.background = `linear-gradient(90deg, ${ramp.map((c) => `rgb(${c.join(" ")})`).join(",")})`;
  };
  const stop = () => { clearInterval(state.timer); state.timer = null; };
  const start = () => {
    if (state.step >= lastStep()) state.step = 0;
    state.timer = setInterval(() => {
      state.step += 1;
      if (state.step >= lastStep()) stop();
      draw();
    }, 1000 / (STEPS_PER_SECOND * state.speed));
  };
  const toggle = () => { state.timer ? stop() : start(); draw(); };
  const go = (step) => { stop(); state.step = step; draw(); };
  // The base stands left where it has a run; right stands the last arm (by habit the one the study
  // is about), or where the base is wrong the last that is right.
  const choose = (index) => {
    stop();
    state.group = index;
    const arms = groups[state.group].runs.map((run) => examples[run.example].arm);
    const left = Math.max(0, arms.indexOf(base));
    const answers = rightness(groups[index]);
    const better = answers[left].is_correct ? -1 : answers.map((one) => one.is_correct === true).lastIndexOf(true);
    const last = arms.length - 1 === left ? 0 : arms.length - 1;
    const right = better === -1 ? last : better;
    state.runs = arms.length > 1 ? [left, right] : [0];
    rebuild();
  };

  window.addEventListener("beforeprint", () => go(lastStep())); // paper shows the whole response
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => go(Number(slider.value)));
  kind.addEventListener("change", () => { offer(); move(-members[kind.value].length); });
  choice.addEventListener("change", () => { state.step = 0; choose(Number(choice.value)); });
  speed.addEventListener("change", () => {
    state.speed = Number(speed.value);
    if (state.timer) { stop(); start(); }
  });
  root.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      ArrowLeft: () => go(state.step - 1), ArrowRight: () => go(state.step + 1),
      Home: () => go(0), End: () => go(lastStep()),
      ArrowUp: () => move(-1), ArrowDown: () => move(1),
      " ": toggle,
    };
    if (!keys[event.key] || (event.key === " " && event.target.tagName === "BUTTON")) return;
    event.preventDefault();
    keys[event.key]();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paintScale(); draw(); });

  // It opens at the start of a prompt that the base gets wrong and an arm right, if there is one.
  // #step=8&example=2 opens the page at that state: for links and for pictures.
  const hash = new URLSearchParams(location.hash.slice(1));
  const asked = (name, otherwise) => (hash.has(name) ? Number(hash.get(name)) || 0 : otherwise);
  paintScale();
  offer();
  state.step = asked("step", 0);
  choose(Math.min(Math.max(asked("example", members[1][0] ?? 0), 0), groups.length - 1));
})();
