//! Calls that copy all of the program's registers: entry code saves what handlers preserve first.

use super::{FromRegister, IntoRegister, handlers};

macro_rules! with_whole_frame {
    ($($name:ident($($argument:ident),*);)*) => {
        $(
            /// The handler of the same name, for `arch`'s entry code.
            pub extern "C" fn $name($($argument: u64),*) -> i64 {
                handlers::$name($(FromRegister::from_register($argument)),*).into_register()
            }
        )*
    };
}

with_whole_frame! {
    clone(a, b, c, d, e);
    fork();
    vfork();
    clone3(a, b);
}
