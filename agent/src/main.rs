//! The command `weighbridge`; all it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    weighbridge::commands::main()
}
