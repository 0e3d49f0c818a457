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
  await navigator.clipboard.writeText((button.closest("[data-prefix]")?.dataset.prefix ?? "") + button.dataset.copy);
  const before = button.textContent;
  button.textContent = document.body.dataset.copied;
  setTimeout(() => { button.textContent = before; }, 1500);
});

const improve = (root) => { localTimes(root); copyButtons(root); };
improve(document);
