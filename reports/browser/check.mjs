// Opens the sample pages in headless Chromium and says whether they do what a reader expects of them:
//
//   node check.mjs PAGES [SCREENSHOTS]
//
// PAGES has a directory with a report.html for each kind of page; go test ./reports/render -samples PAGES makes them. With
// SCREENSHOTS each page is kept as a picture, light and dark, wide and narrow. Prints one line a page, and each fault on a line
// of its own; the last line counts. Exit code 1 if anything is wrong.
import { chromium } from "playwright-core";
import { mkdirSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [pages, screenshots] = process.argv.slice(2);
if (!pages) {
  console.error("expected: node check.mjs PAGES [SCREENSHOTS]");
  process.exit(2);
}

// What has to be on each kind of page: sections by their id, pictures by theirs.
const run = ["verdict", "environment"];
const overTime = ["time", "stages", "throughput-writes", "throughput-reads", "latency-insert-quorum", "roles", "links", "cpu", "memory", "not-ok"];
const scenario = [...run, ...overTime, "checks", "thresholds", "spectrum", "spectrum-1-insert-before", "spectrum-2-insert-during", "spectrum-3-insert-recovery", "failover", "failover-parts", "losses", "numbers"];
const comparison = ["verdict", "effects", "changes", "numbers", "method"];
const expected = {
  pass: scenario,
  violated: scenario,
  unknown: scenario,
  large: scenario,
  busy: scenario.filter((id) => !id.startsWith("spectrum-")), // its phases have other names
  baseline: [...scenario, "baseline", "changes"],
  partial: [...run, "spectrum", "numbers"],
  repeated: [...run, "repeats", "failover", "failover-parts", "failover-ecdf"],
  bench: [...run, "time", "latency", "spectrum", "numbers", "throughput-writes"],
  saturation: [...run, "saturation", "knee-latency", "knee-throughput"],
  peers: [...run, "checks", "peers", "systems", "peers-1", "peers-2", "numbers"],
  "gate-pass": comparison, "gate-fail": comparison, "gate-unknown": comparison, compare: comparison, "compare-two": comparison,
};
const biggest = 3_000_000; // bytes of a page
const slowest = 2000; // milliseconds until a page is there, the best of three

let faults = 0;
let passed = 0;
const fault = (page, text) => { faults++; console.log(`  FAIL ${page}: ${text}`); };

// Runs in the page: text whose contrast with what is behind it is below what WCAG asks for, 4.5.
function weakTexts() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => { // any CSS colour, as numbers
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return { r, g, b, a: a / 255 };
  };
  const luminance = ({ r, g, b }) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (el) => {
    for (let e = el; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c.a > 0.9) return c;
    }
    return { r: 255, g: 255, b: 255 };
  };
  const painted = (text) => { // the shape of the picture that the text stands on, blended with the page behind it
    const at = text.getBoundingClientRect(), x = (at.left + at.right) / 2, y = (at.top + at.bottom) / 2;
    let color = behind(text.ownerSVGElement);
    for (const shape of text.ownerSVGElement.querySelectorAll("path, rect")) {
      if (text.compareDocumentPosition(shape) & Node.DOCUMENT_POSITION_FOLLOWING) break;
      const style = getComputedStyle(shape), box = shape.getBoundingClientRect();
      if (style.fill === "none" || style.display === "none" || x < box.left || x > box.right || y < box.top || y > box.bottom) continue;
      const inside = new DOMPoint(x, y).matrixTransform(shape.getScreenCTM().inverse());
      if (!shape.isPointInFill(inside)) continue; // one shape is all states of a look
      const fill = rgba(style.fill), share = parseFloat(style.fillOpacity) * fill.a;
      const mix = (over, under) => over * share + under * (1 - share);
      color = { r: mix(fill.r, color.r), g: mix(fill.g, color.g), b: mix(fill.b, color.b) };
    }
    return color;
  };
  const weak = [];
  for (const el of document.querySelectorAll("body *")) {
    if (!Array.from(el.childNodes).some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    if (["SCRIPT", "STYLE", "TITLE", "DESC"].includes(el.tagName.toUpperCase()) || !el.getClientRects().length) continue;
    if (el.closest(".legend [aria-pressed=false]")) continue;
    const inPicture = el.ownerSVGElement;
    const color = rgba(inPicture ? getComputedStyle(el).fill : getComputedStyle(el).color);
    const a = luminance(color), b = luminance(inPicture ? painted(el) : behind(el));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) weak.push(`${el.tagName} "${el.textContent.trim().slice(0, 40)}" ${contrast.toFixed(2)}`);
  }
  return weak;
}

// What does not depend on the width of the window or on the theme.
async function checkContents(page, name) {
  // The keyboard reaches the theme's button, and what has the focus can be seen.
  let reached = false;
  for (let i = 0; i < 20 && !reached; i++) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => ({ id: document.activeElement.id, outline: parseFloat(getComputedStyle(document.activeElement).outlineWidth) }));
    if (focus.outline < 1) fault(name, `no outline at the focus, ${JSON.stringify(focus)}`);
    reached = focus.id === "theme";
  }
  if (!reached) fault(name, "Tab does not reach the button of the theme");

  for (const id of expected[name] ?? []) {
    const box = await page.evaluate((id) => document.getElementById(id)?.getBoundingClientRect().toJSON(), id);
    if (!box || box.width < 1 || box.height < 1) fault(name, `no visible #${id}`);
  }
  const nameless = await page.evaluate(() => Array.from(document.querySelectorAll("svg[role=img]"), (svg) => {
    const words = svg.getAttribute("aria-labelledby").split(" ").map((id) => document.getElementById(id)?.textContent.trim());
    return words.length === 2 && words.every(Boolean) ? "" : svg.id;
  }).filter(Boolean));
  for (const id of nameless) fault(name, `picture #${id} has no name or description for a screen reader`);
  const tree = await page.locator("main").ariaSnapshot();
  if (!tree.includes("heading")) fault(name, "a screen reader finds no heading");

  // Every legend button switches its series off and on again.
  const buttons = await page.locator(".legend button").count();
  for (let i = 0; i < Math.min(buttons, 6); i++) {
    const button = page.locator(".legend button").nth(i);
    const series = await button.getAttribute("data-series");
    const shown = () => button.evaluate((b, s) => Array.from(b.closest("[data-group]").querySelectorAll(".s-" + s)).filter((e) => getComputedStyle(e).display !== "none").length, series);
    const before = await shown();
    await button.focus();
    await page.keyboard.press("Enter");
    const off = await shown(), pressed = await button.getAttribute("aria-pressed");
    await button.click();
    const after = await shown();
    if (before === 0 || off !== 0 || pressed !== "false" || after !== before) fault(name, `the legend's ${series}: ${before} elements shown, ${off} when off (aria-pressed ${pressed}), ${after} when on again`);
  }

  // The crosshair follows the pointer and the arrow keys in every picture of the time axis.
  const live = page.locator("#timeline svg[data-x0]");
  if (await live.count() > 0) {
    const readings = () => page.locator("#timeline .readout").allTextContents();
    await live.first().scrollIntoViewIfNeeded();
    const box = await live.first().boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    if ((await readings()).some((t) => !/^\d+\.\d{3} s/.test(t))) fault(name, `the crosshair reads nothing somewhere: ${JSON.stringify(await readings())}`);
    if (await page.locator("#timeline line.cross:not(.off)").count() !== await live.count()) fault(name, "the crosshair is not in every picture");
    await page.mouse.move(1, 1);
    await page.locator("#timeline").focus();
    await page.keyboard.press("ArrowRight");
    const first = (await readings())[0];
    await page.keyboard.press("Shift+ArrowRight");
    const second = (await readings())[0];
    if (!(parseFloat(second) > parseFloat(first))) fault(name, `arrow keys do not move the crosshair: ${first} then ${second}`);
    await page.keyboard.press("Escape");
    if ((await readings()).some(Boolean)) fault(name, "Escape leaves the crosshair");
  }
}

async function checkLook(page, name, width) {
  const sizes = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, window: window.innerWidth }));
  if (sizes.scroll > sizes.window) {
    const wide = await page.evaluate(() => Array.from(document.querySelectorAll("main *")).filter((e) => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > window.innerWidth + 1).slice(0, 3).map((e) => e.tagName + "." + e.className));
    fault(name, `${width} px: the page scrolls sideways, ${sizes.scroll} px wide: ${wide.join(", ")}`);
  }
  if (width < 500) {
    const small = await page.evaluate(() => Array.from(document.querySelectorAll(".legend button, #theme")).filter((b) => b.getClientRects().length && b.getBoundingClientRect().height < 24).length);
    if (small > 0) fault(name, `${width} px: ${small} buttons are lower than 24 px`);
  }
  const weak = await page.evaluate(weakTexts);
  for (const text of weak.slice(0, 5)) fault(name, `${width} px, ${await page.evaluate(() => document.documentElement.dataset.theme || "the system's theme")}: weak contrast: ${text}`);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
if (screenshots) mkdirSync(screenshots, { recursive: true });
const found = readdirSync(pages).filter((d) => { try { return statSync(path.join(pages, d, "report.html")).isFile(); } catch { return false; } }).sort();
for (const name of Object.keys(expected)) if (!found.includes(name)) fault(name, "there is no such page to check");
for (const name of found) {
  const before = faults;
  const file = path.resolve(pages, name, "report.html");
  const size = statSync(file).size;
  if (size > biggest) fault(name, `${size} bytes, at most ${biggest}`);
  let best = Infinity;
  for (const [width, scheme] of [[1280, "light"], [1280, "dark"], [400, "light"]]) {
    const context = await browser.newContext({ viewport: { width, height: width > 500 ? 900 : 800 }, colorScheme: scheme });
    const page = await context.newPage();
    page.on("console", (m) => { if (["error", "warning"].includes(m.type())) fault(name, `console: ${m.text()}`); });
    page.on("pageerror", (e) => fault(name, `script: ${e.message}`));
    page.on("request", (r) => { if (!r.url().startsWith("file:") && !r.url().startsWith("data:")) fault(name, `it asks the network for ${r.url()}`); });
    await page.goto(pathToFileURL(file).href);
    best = Math.min(best, await page.evaluate(() => performance.getEntriesByType("navigation")[0].loadEventEnd));
    await checkLook(page, name, width);
    if (screenshots) await page.screenshot({ path: path.join(screenshots, `${name}-${width}-${scheme}.png`), fullPage: width > 500 });
    if (width > 500 && scheme === "light") await checkContents(page, name);
    if (scheme === "dark") { // the button wins over the system
      const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const dark = await back();
      await page.locator("#theme").click();
      if (dark === await back()) fault(name, "the button of the theme changes nothing");
      await checkLook(page, name, width);
    }
    await context.close();
  }
  if (best > slowest) fault(name, `${best.toFixed(0)} ms until it was there, at most ${slowest}`);
  if (faults === before) { passed++; console.log(`  ok ${name}: ${(size / 1024).toFixed(0)} KiB, there in ${best.toFixed(0)} ms`); }
}
await browser.close();
console.log(`${passed} passed, ${found.length - passed} failed`);
process.exit(faults > 0 ? 1 : 0);
