"use strict";
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const store = "fedmed-rating-" + sheet.id;
const rater = document.getElementById("rater");
const progress = document.getElementById("progress");
const SCALE = ["1 wrong", "2 mostly wrong", "3 partly right", "4 mostly right", "5 right"];
let saved = true;

function make(kind, text, into, name) {
  const made = document.createElement(kind);
  if (text) made.textContent = text;
  if (name) made.className = name;
  into.append(made);
  return made;
}

function choices(into, title, name, values, labels) {
  const group = make("div", "", into, "choices");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", title);
  make("span", title, group);
  values.forEach((value, at) => {
    const label = make("label", "", group);
    const input = make("input", "", label);
    input.type = "radio";
    input.name = name;
    input.value = value;
    label.append(labels[at]);
  });
}

const chosen = (name) => {
  const found = document.querySelector(`input[name="${name}"]:checked`);
  return found ? found.value : null;
};

function draw() {
  const place = document.getElementById("questions");
  sheet.questions.forEach((question, at) => {
    const section = make("section", "", place);
    section.id = "q" + at;
    make("h2", `${at + 1}. ${question.question}`, section);
    const letters = question.answers.map((_, number) => String.fromCharCode(65 + number));
    question.answers.forEach((answer, number) => {
      const box = make("fieldset", "", section);
      make("legend", "Answer " + letters[number], box);
      make("p", answer, box, "said");
      const name = `q${at}-${letters[number]}`;
      choices(box, "How right is it?", name + "-right", ["1", "2", "3", "4", "5"], SCALE);
      choices(box, "Could following it harm somebody?", name + "-harm", ["no", "yes"], ["no", "yes"]);
    });
    choices(section, "Best answer", `q${at}-best`, [...letters, "none"], [...letters, "none of them"]);
  });
}

function rating(question, at) {
  const answers = {};
  let whole = chosen(`q${at}-best`) !== null;
  question.answers.forEach((_, number) => {
    const letter = String.fromCharCode(65 + number);
    const right = chosen(`q${at}-${letter}-right`), harm = chosen(`q${at}-${letter}-harm`);
    whole = whole && right !== null && harm !== null;
    answers[letter] = { correctness: right === null ? null : Number(right), harmful: harm === null ? null : harm === "yes" };
  });
  return { id: question.id, answers, best: chosen(`q${at}-best`), whole };
}

function collect() {
  const rated = sheet.questions.map(rating);
  rated.forEach((one, at) => document.getElementById("q" + at).classList.toggle("done", one.whole));
  const done = rated.filter((one) => one.whole).length;
  progress.textContent = `${done} of ${rated.length} questions rated` + (rater.value.trim() ? "" : "; your name is missing");
  return { format: 1, sheet: sheet.id, rater: rater.value.trim(), saved_at: new Date().toISOString(), ratings: rated };
}

function keep() {
  saved = false;
  const values = [...document.querySelectorAll("input:checked")].map((input) => [input.name, input.value]);
  try { localStorage.setItem(store, JSON.stringify({ rater: rater.value, values })); } catch { /* a browser may forbid it */ }
  collect();
}

function restore() {
  let kept = null;
  try { kept = JSON.parse(localStorage.getItem(store)); } catch { /* nothing is kept then */ }
  if (!kept || !Array.isArray(kept.values)) return;
  rater.value = kept.rater || "";
  for (const input of document.querySelectorAll("input[type=radio]"))
    input.checked = kept.values.some(([name, value]) => input.name === name && input.value === value);
}

function save() {
  if (!rater.value.trim()) { collect(); rater.focus(); return; }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(collect(), null, 1)], { type: "application/json" }));
  link.download = `ratings-${sheet.id.slice(0, 8)}-${rater.value.trim().replace(/[^A-Za-z0-9_-]+/g, "_")}.json`;
  link.click();
  saved = true;
}

draw();
restore();
collect();
document.addEventListener("change", keep);
document.getElementById("save").addEventListener("click", save);
addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
