"use strict";
// Looks again while the work lasts; says when the page is not written any more.
(() => {
  const { written, seconds } = document.body.dataset, place = document.getElementById("age");
  if (seconds === "0") return;
  const PATIENCE = 60;
  const look = () => {
    const age = Math.round(Date.now() / 1000 - written);
    if (age < PATIENCE) return;
    place.textContent = `Not written for ${age} s: the process may be gone. Repeat its command to go on.`;
    place.className = "gone";
  };
  look();
  setTimeout(() => location.reload(), 1000 * seconds);
})();
