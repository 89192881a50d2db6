//! Progress bars, on a terminal only.

/// Shows how many of the items of a call are done.
pub(crate) struct Bar {
    #[cfg(feature = "progress")]
    bar: indicatif::ProgressBar,
}

impl Bar {
    /// A bar on the standard error stream; invisible if that is no terminal.
    pub fn new(items: usize) -> Bar {
        #[cfg(feature = "progress")]
        {
            use std::io::IsTerminal;
            let target = if std::io::stderr().is_terminal() {
                indicatif::ProgressDrawTarget::stderr()
            } else {
                indicatif::ProgressDrawTarget::hidden()
            };
            let bar = indicatif::ProgressBar::with_draw_target(Some(items as u64), target);
            let template = "{bar:40} {pos}/{len} [{elapsed} < {eta}, {per_sec}]";
            if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            Bar { bar }
        }
        #[cfg(not(feature = "progress"))]
        {
            let _ = items;
            Bar {}
        }
    }

    /// Shows that `done` items are done.
    pub fn set(&self, done: usize) {
        #[cfg(feature = "progress")]
        self.bar.set_position(done as u64);
        #[cfg(not(feature = "progress"))]
        let _ = done;
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        #[cfg(feature = "progress")]
        self.bar.finish_and_clear();
    }
}
