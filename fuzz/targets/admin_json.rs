//! Transactions of the admin API: what is read reads the same again, and applying it changes all
//! or nothing.
#![no_main]

use flocker_api::route::{Operation, Transaction};
use flocker_proxy::logic::table::RouteTable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(transaction) = serde_json::from_slice::<Transaction>(bytes) else {
        return;
    };
    let text = serde_json::to_vec(&transaction).expect("it came from JSON");
    let again: Transaction = serde_json::from_slice(&text).expect("it was written by us");
    assert_eq!(again, transaction);

    let empty = RouteTable::<u32>::new();
    let Ok(table) = empty.apply(&transaction, |_| 0) else {
        return;
    };
    assert_eq!(table.generation(), empty.generation().next());
    for operation in transaction.operations.iter().rev().take(1) {
        match operation {
            Operation::Remove { key } => assert!(table.get(key).is_none()),
            Operation::Drain { key, .. } => assert!(table.get(key).is_some()),
            Operation::Add { route } | Operation::Set { route } | Operation::Put { route } => {
                assert_eq!(&table.get(&route.key).expect("it was added").route, route);
            }
        }
    }
});
