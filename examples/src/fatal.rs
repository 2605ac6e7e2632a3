use std::error::Error;
use std::fmt;

/// The error of a program, printed in one line: Rust prints the `Debug` of the error that `main`
/// returns. `anyhow::Error` and similar types do the same.
pub struct Fatal(Box<dyn Error>);

impl<E: Error + 'static> From<E> for Fatal {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
