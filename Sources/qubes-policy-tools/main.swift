// The tool is picked by the name the program is started by.
import PolicyTools

PolicyTools.main(CommandLine.arguments)
