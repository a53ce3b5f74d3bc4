// Runs before anything is painted, so that a chosen theme never flashes.
"use strict";
{
  const chosen = localStorage.getItem("ltrr.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
