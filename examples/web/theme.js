// Before the first paint, so that nobody is dazzled: the appearance that was chosen here last.
// A classic script, because modules run later.
(() => {
  try {
    const theme = localStorage.getItem('jmqt.theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden; then it is as the system has it.
  }
})();
