// The API reference: Swagger UI over /openapi.json, both from this origin. The admin key of this tab goes with calls.

import { adminKey, byId, el, isDark, themeButton } from "/static/common.js";

const shade = () => document.documentElement.classList.toggle("dark-mode", isDark());

themeButton(byId("theme"), shade);
shade();

if (globalThis.SwaggerUIBundle) {
  globalThis.SwaggerUIBundle({
    url: "/openapi.json",
    domNode: byId("operations"),
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    requestInterceptor: (request) => {
      if (adminKey.get()) request.headers.Authorization = `Bearer ${adminKey.get()}`;
      return request;
    },
  });
} else {
  byId("operations").append(
    el("p", { class: "notice" }, "The reference needs the extra “pages”: pip install 'ltrr[pages]'. The description itself is at ",
      el("a", { href: "/openapi.json" }, "/openapi.json"), "."));
}
