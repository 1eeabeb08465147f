"use strict";
(function () {
  const root = document.documentElement;

  // Light or dark: the system's choice until the reader makes one.
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  try { const kept = localStorage.getItem("hacache-theme"); if (kept === "dark" || kept === "light") root.dataset.theme = kept; } catch (e) { /* a page opened from disk may have no storage */ }
  label();
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("hacache-theme", root.dataset.theme); } catch (e) { /* as above */ }
    label();
  });

  // A legend's button switches its series in its own picture, or in every picture that has the same group.
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") === "false";
      const group = button.closest("[data-group]");
      for (const b of group.querySelectorAll(".legend button")) {
        if (b.dataset.series === button.dataset.series) b.setAttribute("aria-pressed", String(on));
      }
      for (const el of group.querySelectorAll(".s-" + button.dataset.series)) el.classList.toggle("off", !on);
    });
  }

  // The crosshair: one moment, shown in every picture that has the time axis.
  const source = document.getElementById("live");
  if (!source) return;
  const live = JSON.parse(source.textContent);
  // Bins come as the beginning of the first and the width and value of each, states as from, to and the number of their text;
  // both in milliseconds.
  const unfold = (flat) => {
    const bins = [];
    for (let i = 1, at = flat[0]; i < flat.length; i += 2) {
      const end = Math.round((at + flat[i]) * 10) / 10;
      if (flat[i + 1] !== null) bins.push([at / 1e3, end / 1e3, flat[i + 1]]);
      at = end;
    }
    return bins;
  };
  for (const data of Object.values(live.figures)) {
    if (data.columns) data.bins = data.bins.map(unfold);
    else for (const lane of data.lanes) {
      const flat = lane.states;
      lane.states = [];
      for (let i = 0; i < flat.length; i += 3) lane.states.push({ from: flat[i] / 1e3, to: flat[i + 1] / 1e3, what: data.words[flat[i + 2]] });
    }
  }
  const figures = [];
  for (const svg of document.querySelectorAll("svg[data-x0]")) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cross off");
    line.setAttribute("y1", "0");
    line.setAttribute("y2", String(svg.viewBox.baseVal.height - 18));
    svg.append(line);
    const figure = svg.closest("figure");
    figures.push({ svg, line, data: live.figures[svg.id], out: figure.querySelector(".readout"), x0: Number(svg.dataset.x0), x1: Number(svg.dataset.x1) });
  }
  const digits = (v) => v === 0 ? "0" : v >= 100 ? String(Math.round(v)) : v.toPrecision(3);
  const units = {
    rate: (v) => digits(v) + "/s",
    duration: (ns) => ns < 1e3 ? ns + " ns" : ns < 999500 ? digits(ns / 1e3) + " µs" : ns < 999.5e6 ? digits(ns / 1e6) + " ms" : digits(ns / 1e9) + " s",
    share: (v) => (100 * v).toFixed(1) + " %",
    bytes: (v) => v >= 1 << 30 ? digits(v / (1 << 30)) + " GiB" : v >= 1 << 20 ? digits(v / (1 << 20)) + " MiB" : digits(v / 1024) + " KiB",
  };
  const at = (bins, t) => { // the bin that holds t; bins are sorted
    let lo = 0, hi = bins.length - 1;
    while (lo <= hi) {
      const mid = (lo + hi) >> 1;
      if (t < bins[mid][0]) hi = mid - 1; else if (t >= bins[mid][1]) lo = mid + 1; else return bins[mid];
    }
    return null;
  };
  const describe = (data, t) => {
    const parts = [];
    if (data.columns) {
      data.columns.forEach((name, i) => { const b = at(data.bins[i], t); parts.push(name + " " + (b ? units[data.unit](b[2]) : "–")); });
    } else {
      for (const lane of data.lanes) {
        const now = lane.states.filter((s) => t >= s.from && t <= s.to).map((s) => s.what);
        if (now.length) parts.push((lane.name ? lane.name + ": " : "") + now.join(", "));
      }
    }
    return parts.join("   ");
  };
  let moment = null;
  const show = (t) => {
    moment = t;
    for (const f of figures) {
      f.line.classList.toggle("off", t === null);
      if (t === null) { f.out.textContent = ""; continue; }
      const x = f.x0 + (t - live.from) / (live.to - live.from) * (f.x1 - f.x0);
      f.line.setAttribute("x1", String(x));
      f.line.setAttribute("x2", String(x));
      f.out.textContent = t.toFixed(3) + " s   " + describe(f.data, t);
    }
  };
  for (const f of figures) {
    f.svg.addEventListener("pointermove", (e) => {
      const box = f.svg.getBoundingClientRect();
      const x = (e.clientX - box.left) * f.svg.viewBox.baseVal.width / box.width;
      const t = live.from + (x - f.x0) / (f.x1 - f.x0) * (live.to - live.from);
      show(t < live.from || t > live.to ? null : t);
    });
    f.svg.addEventListener("pointerleave", () => show(null));
  }
  const timeline = document.getElementById("timeline");
  timeline.addEventListener("keydown", (e) => {
    const step = (live.to - live.from) / (e.shiftKey ? 20 : 200);
    if (e.key === "Escape") show(null);
    else if (e.key === "ArrowLeft" || e.key === "ArrowRight") {
      const from = moment === null ? live.from : moment;
      show(Math.min(live.to, Math.max(live.from, from + (e.key === "ArrowLeft" ? -step : step))));
      e.preventDefault();
    }
  });
})();
