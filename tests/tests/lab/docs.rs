//! The commands of the pages, as an operator types them, where one node and a folder of manifests is all they need.

use lab::docs::{Ground, Home, to_tell};

#[test]
fn the_commands_of_pages_about_a_node_do_what_the_pages_say() {
    let mut wrong = Vec::new();
    for page in to_tell(Home::Node).unwrap() {
        wrong.extend(Ground::of_a_node().unwrap().tell(&page.to_run().unwrap()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
