//! The names and severities of the errors of accept(2), bind(2), listen(2) and socket(2), and of those with
//! which connections end.

use crate::severity::{ERROR, INFO, WARN};

/// The symbol of an errno, for `error.type`; `_OTHER` for an errno that none of these calls is known to
/// return.
#[must_use]
pub const fn symbol(errno: i32) -> &'static str {
    match errno {
        1 => "EPERM",
        2 => "ENOENT",
        4 => "EINTR",
        5 => "EIO",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        17 => "EEXIST",
        20 => "ENOTDIR",
        22 => "EINVAL",
        23 => "ENFILE",
        24 => "EMFILE",
        30 => "EROFS",
        32 => "EPIPE",
        36 => "ENAMETOOLONG",
        40 => "ELOOP",
        64 => "ENONET",
        71 => "EPROTO",
        88 => "ENOTSOCK",
        89 => "EDESTADDRREQ",
        92 => "ENOPROTOOPT",
        93 => "EPROTONOSUPPORT",
        94 => "ESOCKTNOSUPPORT",
        95 => "EOPNOTSUPP",
        97 => "EAFNOSUPPORT",
        98 => "EADDRINUSE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        106 => "EISCONN",
        107 => "ENOTCONN",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        125 => "ECANCELED",
        _ => "_OTHER",
    }
}

/// `severity_number` of a call with this result: ERROR if the listener stops serving or a connection is lost,
/// WARN for any other failure, INFO for success.
#[must_use]
pub const fn severity(errno: Option<i32>) -> u8 {
    match errno {
        None => INFO,
        // ENOMEM, EFAULT, ENFILE, EMFILE, ENOBUFS
        Some(12 | 14 | 23 | 24 | 105) => ERROR,
        Some(_) => WARN,
    }
}
