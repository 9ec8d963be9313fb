import { defineConfig } from "vite";

// Everything is a file of its own: the gateway's Content-Security-Policy knows no inline script, style or worklet.
export default defineConfig({
  build: {
    outDir: "../services/gateway/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: true,
  },
  server: { proxy: { "/api": "http://127.0.0.1:8000", "/transcribe": { target: "ws://127.0.0.1:8000", ws: true } } },
});
