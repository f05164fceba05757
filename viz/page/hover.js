(() => {
  const tip = document.getElementById("tip");
  document.addEventListener("mouseover", (event) => {
    const token = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !token;
    if (!token) return;
    tip.textContent = token.dataset.tip;
    const box = token.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = left + "px";
    tip.style.top = (above > 4 ? above : box.bottom + 6) + "px";
  });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
