"use strict";
// Everything from a run is set with textContent: what a model wrote stays text.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const KL_STEPS = [50, 200, 500, 1000, 2000]; // thousandths of a nat, as in monitor/shade.py

function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = String(text);
  if (className) node.className = className;
  return node;
}

function table(rows, head) {
  const node = make("table");
  if (head) {
    const line = node.appendChild(make("tr"));
    head.forEach((cell) => line.appendChild(make("th", cell)));
  }
  for (const row of rows) {
    const line = node.appendChild(make("tr"));
    row.forEach((cell) => line.appendChild(make("td", cell)));
  }
  return node;
}

const percent = (share) => (share === null || share === undefined ? "-" : (100 * share).toFixed(1) + " %");
const number = (value) => (value === null || value === undefined ? "-" : Number(value).toPrecision(4));
const shown = (value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : String(value));

function showRuns() {
  byId("title").textContent = data.runs.map((run) => run.label).join(", ");
  const cards = byId("runs").appendChild(make("div", null, "cards"));
  for (const run of data.runs) {
    const card = cards.appendChild(make("div", null, "card"));
    card.appendChild(make("h3", run.label));
    const rows = [["state", `${run.state}, step ${run.step} of ${run.steps || "?"}, attempt ${run.attempt}`]];
    if (run.student) rows.push(["student", run.student], ["teacher", run.teacher]);
    rows.push(["started", run.started], ["ended", run.ended]);
    if (run.accuracy) {
      const a = run.accuracy;
      rows.push(["val/acc", `${percent(a.acc)} (${percent(a.low)} to ${percent(a.high)}) at step ${a.step}, ${a.num} prompts`]);
      if (a.paired) rows.push([`against ${data.runs[0].label}`,
        `${(100 * a.paired.difference).toFixed(1)} points, p ${number(a.paired.p_value)} (${a.paired.only_this} gained, ${a.paired.only_first} lost of ${a.paired.num})`]);
    }
    for (const name of ["kl/reverse", "actor/entropy"]) {
      const metric = run.metrics[name];
      if (metric) rows.push([name, `${number(metric.first)} → ${number(metric.last)} ${metric.unit}`]);
    }
    rows.push(["versions", Object.entries(run.provenance.packages || {}).map((p) => p.join(" ")).join(", ")],
      ["machine", run.provenance.platform ? `${run.provenance.platform}, ${run.provenance.num_cpus} CPUs, Python ${run.provenance.python}` : ""]);
    card.appendChild(table(rows.filter((row) => row[1] !== "")));
    for (const found of run.diagnosis) {
      const note = card.appendChild(make("div", null, "note " + found.level));
      note.appendChild(make("div", `${found.name}: ${found.message}`));
      note.appendChild(make("div", `try: ${found.remedy}`, "dim"));
    }
    for (const warning of run.warnings.slice(-20)) card.appendChild(make("div", `step ${warning.step}: ${warning.message}`, "note"));
  }
}

const isDark = () => document.documentElement.classList.contains("dark");

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink"), line = style.getPropertyValue("--line"), none = "rgba(0,0,0,0)";
  const axis = (own) => ({ ...own, gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true });
  return { ...layout, paper_bgcolor: none, plot_bgcolor: none, font: { color: ink, size: 12 },
    hoverlabel: { bgcolor: style.getPropertyValue("--paper"), font: { color: ink } },
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) };
}

const drawn = new Map();

function draw(plot, chart) {
  drawn.set(plot, chart);
  Plotly.newPlot(plot, chart.figure.data, themed(chart.figure.layout), {
    responsive: true, displaylogo: false, displayModeBar: matchMedia("(hover: none)").matches ? false : "hover" });
}

function showCharts() {
  // A chart is drawn when it comes near the window: long reports open at once.
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      draw(entry.target, data.charts[Number(entry.target.dataset.chart)]);
    }
  }, { rootMargin: "300px" });
  data.charts.forEach((chart, index) => {
    const box = byId("charts").appendChild(make("div", null, "chart"));
    box.appendChild(make("h3", chart.title));
    const plot = box.appendChild(make("div", null, "plot"));
    plot.dataset.chart = index;
    observer.observe(plot);
  });
  byId("thinned").textContent = data.thinned;
  if (!data.charts.length) byId("charts").appendChild(make("p", "no steps yet", "dim"));
}

function showLegend() {
  const legend = byId("legend");
  legend.appendChild(make("span", "reverse KL in nats:"));
  KL_STEPS.forEach((step, i) => legend.appendChild(make("span", `${step / 1000}+`, "k" + (i + 1))));
  legend.appendChild(make("span", "hover, tap or tab to a token for what both models would rather have written", "dim"));
}

const shade = (kl) => (kl === null ? 0 : KL_STEPS.filter((step) => kl >= step).length);
const visible = (text) => JSON.stringify(text).slice(1, -1);

function alternatives(top) {
  const rows = [];
  for (let i = 0; i < top.length; i += 2) rows.push([visible(data.samples.texts[top[i]]), (top[i + 1] / 10).toFixed(1) + " %"]);
  return rows;
}

function showTip(node, sample, index) {
  const tip = byId("tip");
  tip.replaceChildren(make("strong", visible(data.samples.texts[sample.t[index]])));
  const kl = sample.kl[index], lp = sample.lp[index];
  tip.appendChild(make("div", `KL ${kl === null ? "-" : (kl / 1000).toFixed(3)} nats, log-prob ${lp === null ? "-" : (lp / 100).toFixed(2)}`));
  const student = alternatives(sample.st[index] || []), teacher = alternatives(sample.tt[index] || []), rows = [];
  for (let i = 0; i < Math.max(student.length, teacher.length); i++) rows.push([...(student[i] || ["", ""]), ...(teacher[i] || ["", ""])]);
  if (rows.length) tip.appendChild(table(rows, ["student", "", "teacher", ""]));
  tip.hidden = false;
  const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(box.left, innerWidth - own.width - 8)) + scrollX + "px";
  tip.style.top = (box.bottom + own.height + 8 > innerHeight ? box.top - own.height - 6 : box.bottom + 6) + scrollY + "px";
}

function tokens(sample) {
  const node = make("div", null, "tokens");
  sample.t.forEach((text, index) => {
    const token = node.appendChild(make("span", data.samples.texts[text], "k" + shade(sample.kl[index])));
    token.tabIndex = 0;
    for (const event of ["mouseenter", "focus", "click"]) token.addEventListener(event, () => showTip(token, sample, index));
    for (const event of ["mouseleave", "blur"]) token.addEventListener(event, () => { byId("tip").hidden = true; });
  });
  return node;
}

const verdict = (sample) => (sample.ok === null ? "" : sample.ok ? "✓" : "✗");

function response(name, sample) {
  const node = make("div");
  const mean = sample.mean === null ? "" : `, mean KL ${sample.mean.toFixed(3)}`;
  const line = `${name}${verdict(sample)} ${sample.t.length} tokens${mean}${sample.cut ? ", cut at the limit" : ""}`;
  node.appendChild(make("div", line, sample.ok === null ? "dim" : sample.ok ? "good" : "bad"));
  node.appendChild(tokens(sample));
  return node;
}

function showSample(entry) {
  const detail = byId("detail");
  byId("tip").hidden = true;
  detail.replaceChildren(make("h3", entry.id));
  detail.appendChild(make("p", entry.prompt, "prompt"));
  if (entry.truth !== null) detail.appendChild(make("p", `expected: ${entry.truth}`, "dim"));
  const pair = detail.appendChild(make("div", null, "pair"));
  if (entry.before) pair.appendChild(response("before ", entry.before));
  pair.appendChild(response(entry.before ? "after " : "", entry.after));
}

function matching() {
  const group = data.samples.groups[Number(byId("group").value)];
  const wanted = byId("search").value.toLowerCase();
  const found = (group ? group.samples : []).filter((entry) =>
    (!byId("wrong").checked || entry.after.ok === false) && (!byId("cut").checked || entry.after.cut) &&
    (!wanted || [entry.id, entry.prompt, entry.after.text, entry.before ? entry.before.text : ""].join("\n").toLowerCase().includes(wanted)));
  if (byId("sort").value === "worst") found.sort((a, b) => (b.after.mean ?? -1) - (a.after.mean ?? -1));
  return found;
}

function showList() {
  const found = matching(), list = byId("list");
  byId("count").textContent = `${found.length} samples`;
  list.replaceChildren();
  byId("detail").replaceChildren();
  for (const entry of found) {
    const mean = entry.after.mean === null ? "" : entry.after.mean.toFixed(3) + " ";
    const button = list.appendChild(make("button", `${verdict(entry.after)} ${mean}${entry.id} ${entry.prompt}`));
    button.type = "button";
    button.addEventListener("click", () => {
      list.querySelectorAll("button").forEach((other) => other.setAttribute("aria-current", other === button));
      showSample(entry);
    });
  }
  if (list.firstChild) list.firstChild.click();
}

function showSamples() {
  const { groups, left_out: leftOut } = data.samples;
  if (!groups.length) {
    byId("samples").replaceChildren(make("h2", "Samples"), make("p", "no samples yet", "dim"));
    return;
  }
  groups.forEach((group, index) => {
    const option = byId("group").appendChild(make("option", `${group.name} (${group.samples.length})`));
    option.value = index;
  });
  byId("left-out").textContent = leftOut ? `${leftOut} further samples are in the run directory: distillctl inspect samples` : "";
  byId("filters").addEventListener("change", showList);
  byId("search").addEventListener("input", showList);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  showLegend();
  showList();
}

function showConfig() {
  const section = byId("config");
  if (Object.keys(data.differences).length) {
    section.appendChild(make("h3", "What differs"));
    section.appendChild(table(Object.entries(data.differences).map(([key, values]) => [key, ...values.map(shown)]), ["key", ...data.runs.map((run) => run.label)]));
  }
  for (const run of data.runs) {
    const details = section.appendChild(make("details"));
    details.appendChild(make("summary", `${run.label}: all keys, bold where not the default`));
    const rows = table(run.config.map((entry) => [entry.key, entry.value]));
    run.config.forEach((entry, i) => { if (!entry.default) rows.rows[i].className = "changed"; });
    details.appendChild(rows);
  }
}

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  for (const [plot, chart] of drawn) Plotly.relayout(plot, themed(chart.figure.layout));
}

// plotly takes longer to start than everything else: the page is shown and usable before.
function startPlotly() {
  const script = document.createElement("script");
  script.textContent = byId("plotly").textContent;
  document.body.appendChild(script);
  showCharts();
}

setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
byId("theme").addEventListener("click", () => setTheme(!isDark()));
showRuns();
showSamples();
showConfig();
addEventListener("load", () => requestAnimationFrame(() => setTimeout(startPlotly)));
