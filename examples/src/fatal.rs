use std::error::Error;
use std::fmt;

/// What ends a program, in one line: of the error that `main` returns, Rust prints the `Debug`.
/// `anyhow::Error` and its like do as much.
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
