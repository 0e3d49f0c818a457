// Everything here is a comfort: each page works without it.

// --- times in the visitor's own zone ---------------------------------------------------------------
const two = (n) => String(n).padStart(2, "0");
const localTimes = (root) => {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.valueOf())) continue;
    time.textContent = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
  }
};

// --- copying ---------------------------------------------------------------------------------------
const copyButtons = (root) => {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
};
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const prefix = button.closest("[data-prefix]")?.dataset.prefix ?? "";
  await navigator.clipboard.writeText(prefix + button.dataset.copy);
  const before = button.textContent;
  button.textContent = document.body.dataset.copied;
  setTimeout(() => { button.textContent = before; }, 1500);
});

// --- choosing: all of a page, a range with Shift, and what it would free ------------------------------
const boxes = () => [...document.querySelectorAll("#choose tbody input[type=checkbox]")];
const size = (bytes) => {
  let amount = bytes, unit = 0;
  while (amount >= 999.5 && unit < 5) { amount /= 1000; unit += 1; }
  return `${amount.toFixed(unit && amount < 99.95 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB", "PB"][unit]}`;
};
const tellChosen = () => {
  const told = document.querySelector("[data-chosen]");
  if (!told) return;
  told.dataset.before ??= told.textContent;
  const chosen = boxes().filter((box) => box.checked);
  // At least: what only the chosen ones share goes, too. The plan is exact.
  const frees = chosen.reduce((sum, box) => sum + Number(box.dataset.frees ?? 0), 0);
  told.textContent = chosen.length
    ? told.dataset.words.replace("{n}", chosen.length).replace("{bytes}", size(frees))
    : told.dataset.before;
};
const choosing = (root) => {
  const all = root.querySelector("[data-all]");
  if (all) all.hidden = false;
  tellChosen();
};
let lastBox = null;
document.addEventListener("click", (event) => {
  const box = event.target;
  if (!(box instanceof HTMLInputElement) || box.type !== "checkbox" || !box.closest("#choose")) return;
  const some = boxes();
  if (box.matches("[data-all]")) {
    for (const each of some) each.checked = box.checked;
  } else if (event.shiftKey && lastBox && some.includes(lastBox)) {
    const [from, to] = [some.indexOf(lastBox), some.indexOf(box)].sort((a, b) => a - b);
    for (const each of some.slice(from, to + 1)) each.checked = box.checked;
  }
  if (!box.matches("[data-all]")) lastBox = box;
  tellChosen();
});

// --- what goes on in the background, asked for again and again --------------------------------------
const poll = (root) => {
  const place = root.querySelector("[data-poll]");
  if (!place || !place.querySelector("[data-going]")) return;
  let wait = 1000;
  const ask = async () => {
    if (!place.isConnected) return;
    if (!document.hidden) {
      try {
        const answer = await fetch(new URL(place.dataset.poll, location.href));
        if (answer.ok) {
          const before = place.innerHTML;
          place.innerHTML = await answer.text();
          wait = place.innerHTML === before ? Math.min(wait * 1.5, 5000) : 1000;
          if (!place.querySelector("[data-going]")) { location.reload(); return; }
        }
      } catch { wait = 5000; }
    }
    setTimeout(ask, wait);
  };
  setTimeout(ask, wait);
};

// --- filtering while typing --------------------------------------------------------------------------
let typing = 0;
document.addEventListener("input", (event) => {
  const field = event.target;
  if (!field.matches("[data-live]")) return;
  clearTimeout(typing);
  typing = setTimeout(async () => {
    const address = new URL(location.href);
    address.search = new URLSearchParams(new FormData(field.form)).toString();
    const answer = await fetch(address);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    if (!answer.ok || !fresh || fresh.querySelector("[data-live]") === null) return;
    history.replaceState(null, "", address);
    const { value, selectionStart } = field;
    document.querySelector("main").replaceWith(fresh);
    improve(document);
    const again = fresh.querySelector("[data-live]");
    again.value = value;
    again.focus();
    again.setSelectionRange(selectionStart, selectionStart);
  }, 250);
});

// --- keys ---------------------------------------------------------------------------------------------
let row = -1, going = false;
const rows = () => [...document.querySelectorAll("tr[data-row]")];
const go = (path) => { location.href = document.body.dataset.base + path; };
const toRow = (step) => {
  const some = rows();
  if (!some.length) return;
  row = Math.max(0, Math.min(some.length - 1, row + step));
  for (const each of some) each.classList.toggle("here", each === some[row]);
  some[row].querySelector("a, input")?.focus();
};
const KEYS = {
  "/": () => (document.getElementById("find") ?? document.querySelector("input[type=search]"))?.focus(),
  j: () => toRow(1),
  k: () => toRow(-1),
  x: () => rows()[row]?.querySelector("input[type=checkbox]")?.click(),
  d: () => document.querySelector("[data-plan]")?.click(),
  u: () => document.querySelector("[data-undo]")?.focus(),
  g: () => { going = true; setTimeout(() => { going = false; }, 1000); },
  "?": () => document.getElementById("keys")?.toggleAttribute("open"),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox]), textarea, select")) return;
  if (going && (event.key === "s" || event.key === "r")) { go(event.key === "s" ? "" : "repositories"); return; }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

const improve = (root) => { localTimes(root); copyButtons(root); choosing(root); poll(root); };
improve(document);
