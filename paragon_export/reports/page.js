for (const view of document.querySelectorAll(".compare")) {
  const range = view.querySelector("input");
  const show = () => view.style.setProperty("--part", `${range.value}%`);
  range.addEventListener("input", show);
  view.classList.add("live");
  show();
}
