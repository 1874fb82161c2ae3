//! Compiling templates from strangers: minijinja's compiler calls itself once per operator of an expression (`1+1+1`) and per
//! `elif`, so a template of a megabyte would overflow any ordinary stack, which ends the process.

use std::thread::{Builder, scope};

use minijinja::{Environment, Error, ErrorKind};

use super::dialect::{self, Generation};

/// Longest template, in bytes; the largest ones of real models have 20 KB.
const LONGEST: usize = 128 << 10;
/// Stack of the compiling thread: for each byte of the template (a chain of `-` takes 400 at most), and beside that. What is
/// not used of it takes no memory.
const STACK_PER_BYTE: usize = 2 << 10;
const STACK: usize = 2 << 20;

/// Compiles `source` under `name`.
pub(super) fn add(
    environment: &mut Environment<'static>,
    name: &'static str,
    source: &str,
    generation: Generation,
) -> Result<(), Error> {
    if source.len() > LONGEST {
        let message = format!("expected at most {LONGEST} bytes, got {}", source.len());
        return Err(Error::new(ErrorKind::SyntaxError, message));
    }
    let plain = dialect::respelled(source, generation);
    let refused = |message: String| Error::new(ErrorKind::InvalidOperation, message);
    let thread = Builder::new()
        .name("template-compiler".to_owned())
        .stack_size(STACK + STACK_PER_BYTE * plain.len());
    scope(|scope| {
        let compiling = thread
            .spawn_scoped(scope, || environment.add_template_owned(name, plain))
            .map_err(|error| refused(format!("no thread to compile it: {error}")))?;
        compiling
            .join()
            .unwrap_or_else(|_| Err(refused("it cannot be compiled".to_owned())))
    })
}
