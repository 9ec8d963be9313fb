import "./page/shell.ts";
