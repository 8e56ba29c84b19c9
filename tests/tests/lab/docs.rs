//! The commands of the pages, as an operator types them, where one node and a folder of manifests is all they need.

use lab::docs::{Ground, Home, pages};

#[test]
fn the_commands_of_pages_about_a_node_do_what_the_pages_say() {
    let ours = pages().unwrap().into_iter().filter(|page| page.home().unwrap() == Home::Node);
    let mut wrong = Vec::new();
    for page in ours {
        let commands = page.to_run().unwrap();
        if !commands.is_empty() {
            wrong.extend(Ground::of_a_node().unwrap().tell(&commands));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
